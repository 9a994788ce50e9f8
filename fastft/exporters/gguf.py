"""GGUF: llama.cpp's converter makes a 16-bit file of the merged model, once; every other type is made from that.

The 16-bit type is that of the merged weights, so the conversion loses nothing: K-quants of bf16 weights come from a
bf16 file, of fp16 weights from an f16 file. They equal what convert_hf_to_gguf.py and llama-quantize make of it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import ExportError
from fastft.exporters.converter import converter_for, converter_version, import_llama_cpp
from fastft.exporters.pieces import model_name
from fastft.exporters.pretokenizer import read_tokenizer_json
from fastft.exporters.quantize import quantize_file
from fastft.model_files import read_config
from fastft.startup import light_imports

if TYPE_CHECKING:
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
    types = import_llama_cpp("gguf").LlamaFileType
    file_type = {"bf16": types.MOSTLY_BF16, "f16": types.MOSTLY_F16, "f32": types.ALL_F32}[kind]
    name = model_name(name, read_tokenizer_json(merged))
    with torch.inference_mode(), _refusals():
        with light_imports():  # most of a small model's conversion, otherwise
            from transformers import AutoTokenizer  # noqa: F401  the converter's write() imports it

            converter = converter_for(merged)(merged, file_type, out, model_name=name)
        converter.write()
    return kind


def rehearse(base: Path, tokenizer: Path, chat_template: str) -> None:
    """Have the converter go through all but the weights: the base's config.json, the tokenizer and its template.

    Raises ExportError as `convert` would after the training. Imports torch, so unsloth must be imported before.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in (*tokenizer.glob("*token*"), *tokenizer.glob("*merges.txt")):
            if path.is_file():
                shutil.copy(path, folder)
        config = {key: value for key, value in read_config(base).items() if key != "quantization_config"}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
        file_type = import_llama_cpp("gguf").LlamaFileType.MOSTLY_BF16
        with _refusals():
            converter_for(folder)(folder, file_type, folder / "m.gguf", model_name="m").prepare_metadata(False)


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
            f"llama.cpp's converter can't convert this model: {str(error).strip() or type(error).__name__}",
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
