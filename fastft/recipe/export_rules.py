"""Rules of the recipe's export section together with the others. See `contradictions`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fastft.recipe.clash import Clash, Given
from fastft.recipe.describe import shown


def _exports(given: Given) -> Iterator[Clash]:
    export = given.recipe.export
    key = "export.quantization_method"
    if "gguf" in export.formats and not export.quantization_method:
        yield Clash((key, "export.formats"), "found [] with gguf in export.formats", "at least one type, e.g. q8_0")
    switched_off = given.written("export.formats") and not export.formats
    if "gguf" not in export.formats and given.written(key) and not switched_off and not _overruled(given, key):
        found = f"{shown(list(export.quantization_method))} without gguf in export.formats"
        yield Clash((key, "export.formats"), found, "formats: [gguf]")


def _overruled(given: Given, key: str) -> bool:
    """Whether the formats were chosen on the command line, and the file's types are a leftover of its own formats."""
    formats, types = (given.document.place(tuple(name.split("."))) for name in ("export.formats", key))
    return bool(formats.override) and not types.override


def _adapter_exports(given: Given) -> Iterator[Clash]:
    """What has no adapter can't export one, and llama.cpp's adapters hold pairs of matrices, nothing else."""
    lora, formats = given.recipe.lora, given.recipe.export.formats
    asked = [name for name in ("adapter", "gguf_lora") if name in formats]
    if lora is None:
        for name in asked:
            yield Clash(
                ("export.formats", "model.full_finetuning"), f"found {name} without lora", "merged_16bit or gguf"
            )
    elif "gguf_lora" in asked:
        more = {"use_dora": lora.use_dora, "modules_to_save": lora.modules_to_save, "bias": lora.bias != "none"}
        for key in (key for key, value in more.items() if value):
            keys = ("export.formats", f"lora.{key}")
            yield Clash(
                keys,
                f"found gguf_lora with lora.{key}",
                "merged_16bit or gguf",
                "An adapter of llama.cpp can't hold it",
            )


def _hub(given: Given) -> Iterator[Clash]:
    export, key = given.recipe.export, "export.hub_model_id"
    if "hub" in export.formats and export.hub_model_id is None:
        yield Clash((key, "export.formats"), "hub is in export.formats and no repository is named", "me/my-model")
    if "hub" in export.formats and len(export.formats) == 1:
        yield Clash(("export.formats",), "found [hub] alone", "what to upload beside it, e.g. [merged_16bit, hub]")
    if "hub" not in export.formats and export.hub_model_id is not None:
        yield Clash((key, "export.formats"), "found a repository without hub in export.formats", "formats: [hub, …]")


EXPORT_RULES: tuple[Callable[[Given], Iterator[Clash]], ...] = (_exports, _adapter_exports, _hub)
