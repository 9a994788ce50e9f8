from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastft.errors import ExportError
from fastft.exporters.base_model import FourBitWeights, open_weights, resolve_base, sixteen_bit_name
from fastft.exporters.merged import merge_adapter
from fastft.exporters.weights import SafetensorsFolder
from tests.exporters.models import save_adapter


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("unsloth/Llama-3.2-3B-Instruct-bnb-4bit", "unsloth/Llama-3.2-3B-Instruct"),
        ("unsloth/llama-3.2-3b-instruct-unsloth-bnb-4bit", "unsloth/Llama-3.2-3B-Instruct"),
        ("unsloth/Qwen2.5-7B-Instruct-bnb-4bit", "unsloth/Qwen2.5-7B-Instruct"),
        ("someone/private-bnb-4bit", None),
    ],
)
def test_unsloths_table_gives_the_16_bit_repository(name: str, original: str | None) -> None:
    assert sixteen_bit_name(name) == original


def test_the_table_is_read_without_importing_unsloth_or_torch() -> None:
    code = (
        "import sys; from fastft.exporters.base_model import sixteen_bit_name;"
        "assert sixteen_bit_name('unsloth/Llama-3.2-1B-bnb-4bit');"
        "print(sorted({'torch', 'unsloth'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_16_bit_base_is_taken_as_it_is(tiny: Path) -> None:
    base = resolve_base("fastft/tiny")
    assert (base.folder, base.note) == (tiny, "16-bit weights")
    assert not isinstance(open_weights(tiny), FourBitWeights)


@pytest.fixture(scope="module")
def four_bit(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """The tiny model as bitsandbytes stores it in 4 bits, quantised twice as Unsloth's repositories are."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tiny, quantization_config=config, dtype=torch.bfloat16)
    folder = tmp_path_factory.mktemp("four_bit")
    model.save_pretrained(folder)
    for path in (*tiny.glob("*token*"), tiny / "chat_template.jinja"):
        shutil.copy(path, folder)
    return folder


def test_4_bit_weights_are_dequantised_as_they_are_read(four_bit: Path, tiny: Path) -> None:
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    original, ours = SafetensorsFolder.model(tiny), open_weights(four_bit)
    assert set(ours.specs) == set(original.specs)
    assert ours.specs == original.specs
    name = "model.layers.1.mlp.down_proj.weight"
    expected = dequantize_4bit(*quantize_4bit(original.read(name), quant_type="nf4", compress_statistics=True))
    assert torch.equal(ours.read(name), expected)
    assert torch.equal(ours.read("model.norm.weight"), original.read("model.norm.weight"))


def test_an_adapter_merges_into_a_4_bit_base(four_bit: Path, tiny: Path, tmp_path: Path) -> None:
    import torch

    base = resolve_base(str(four_bit))
    assert base.note == "dequantised from 4 bits, because no 16-bit original of it is known"
    adapter = save_adapter(tiny, tmp_path / "adapter", tiny, r=4, lora_alpha=8, target_modules=["q_proj"])
    merge_adapter(base.folder, adapter, tmp_path / "out", "bfloat16")
    merged, weights = SafetensorsFolder.model(tmp_path / "out"), open_weights(four_bit)
    stored = SafetensorsFolder([adapter / "adapter_model.safetensors"])
    name = "model.layers.0.self_attn.q_proj"
    a, b = (stored.read(f"base_model.model.{name}.lora_{side}.weight") for side in "AB")
    expected = (weights.read(f"{name}.weight").float() + b @ a * 2.0).to(torch.bfloat16)
    assert torch.equal(merged.read(f"{name}.weight"), expected)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_a_base_quantised_otherwise_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "model")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(ExportError, match=r"is quantised \(awq\); an adapter can't be merged into it"):
        resolve_base(str(folder))
