from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from fastft.errors import ExportError
from fastft.exporters.ggml import GGMLType, GGUFHeader
from fastft.exporters.quantize import quantize_file
from fastft.exporters.tensor_types import SCHEMES
from tests.exporters.gguf_models import SHAPES, Shape, write_gguf
from tests.exporters.llama_quantize import llama_quantize


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    paths = {name: folder / f"{number}.gguf" for number, name in enumerate(SHAPES)}
    for name, path in paths.items():
        write_gguf(path, SHAPES[name])
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("quantization", SCHEMES)
def test_every_file_equals_that_of_llama_quantize(sources: dict[str, Path], quantization: str, tmp_path: Path) -> None:
    """Whole files are compared: header, metadata, order, types and bytes of all tensors."""
    program = llama_quantize()
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    unequal = []
    for name, source in sources.items():
        theirs.unlink(missing_ok=True)
        done = subprocess.run([program, source, theirs, quantization], capture_output=True, text=True)
        if done.returncode:
            assert "no tensor type fallback is defined" in done.stdout + done.stderr, name
            with pytest.raises(ExportError, match="can't store"):
                quantize_file(source, ours, quantization)
            continue
        quantize_file(source, ours, quantization)
        if ours.read_bytes() != theirs.read_bytes():
            unequal.append(name)
    assert unequal == []


def _types(path: Path) -> dict[str, str]:
    with GGUFHeader(path) as header:
        return {tensor.name: GGMLType(tensor.type).name for tensor in header.tensors()}


def test_q4_k_m_mixes_its_types(sources: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    quantize_file(sources["llama, 12 layers, for the mixtures"], out, "q4_k_m")
    types = _types(out)
    more = [layer for layer in range(12) if types[f"blk.{layer}.ffn_down.weight"] == "Q6_K"]
    assert more == [0, 3, 6, 9, 10, 11]
    assert [layer for layer in range(12) if types[f"blk.{layer}.attn_v.weight"] == "Q6_K"] == more
    assert types["output.weight"] == "Q6_K"
    assert types["token_embd.weight"] == types["blk.0.attn_q.weight"] == "Q4_K"
    assert types["output_norm.weight"] == types["blk.0.attn_q.bias"] == "F32"


def test_rows_that_fit_no_k_quant_fall_back(sources: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    quantize_file(sources["llama, feed-forward rows of 352"], out, "q4_k_m")
    downs = {_types(out)[f"blk.{layer}.ffn_down.weight"] for layer in range(9)}
    assert downs == {"Q5_0", "Q8_0"}
    quantize_file(sources["llama, feed-forward rows of 80"], out, "q4_k_m")
    assert _types(out)["blk.1.ffn_down.weight"] == "F16"


def test_rows_that_fit_no_block_are_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"blk\.0\.ffn_down\.weight has rows of 80 values, which q8_0") as error:
        quantize_file(sources["llama, feed-forward rows of 80"], tmp_path / "out.gguf", "q8_0")
    assert "f16 or bf16" in error.value.hint


def test_f16_overflow_names_the_tensor(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    write_gguf(source, Shape(dtype="f32"))
    with GGUFHeader(source) as header:
        tensor = next(t for t in header.tensors() if t.name == "blk.1.ffn_up.weight")
    with source.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(np.float32(70000).tobytes())
    with pytest.raises(ExportError, match=r"blk\.1\.ffn_up\.weight holds a value of 70000, too large for f16"):
        quantize_file(source, tmp_path / "out.gguf", "f16")
    quantize_file(source, tmp_path / "out.gguf", "bf16")


@pytest.mark.parametrize(("value", "quantization"), [(np.nan, "q8_0"), (np.inf, "bf16"), (np.nan, "q4_k_m")])
def test_infinite_and_nan_values_are_refused(value: float, quantization: str, tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    write_gguf(source, Shape(dtype="f32"))
    with GGUFHeader(source) as header:
        tensor = next(t for t in header.tensors() if t.name == "output.weight")
    with source.open("r+b") as file:
        file.seek(tensor.offset + 400)
        file.write(np.float32(value).tobytes())
    with pytest.raises(ExportError, match=r"output\.weight holds infinite or NaN values"):
        quantize_file(source, tmp_path / "out.gguf", quantization)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    write_gguf(source, Shape())
    source.write_bytes(source.read_bytes()[:-100_000])
    with pytest.raises(ExportError, match="ends inside"):
        quantize_file(source, tmp_path / "out.gguf", "q8_0")
    source.write_bytes(b"GGUF but no more")
    with pytest.raises(ExportError, match="no whole GGUF file"):
        quantize_file(source, tmp_path / "out.gguf", "q8_0")


def test_quantised_input_is_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    quantize_file(sources["llama, tied"], tmp_path / "once.gguf", "q4_k_m")
    with pytest.raises(ExportError, match="is quantised already"):
        quantize_file(tmp_path / "once.gguf", tmp_path / "twice.gguf", "q8_0")


def test_metadata_is_kept(sources: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    quantize_file(sources["mixtral: 8 experts"], out, "q5_k_m")
    with GGUFHeader(out) as header:
        assert header.text("general.name") == "random"
        assert header.integer("general.file_type") == 17
        assert header.integer("general.quantization_version") == 2
        assert header.integer("llama.expert_count") == 8
        assert header.flag("tokenizer.ggml.add_bos_token") is None
