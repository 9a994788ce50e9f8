"""What all exports of one call are made from, each thing made at most once: the merged model and its 16-bit GGUF."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from fastft.device import free_disk
from fastft.disk_space import in_words
from fastft.errors import ExportError
from fastft.exporters.base_model import BaseModel, open_weights
from fastft.exporters.source import Source
from fastft.exporters.tensor_types import SCHEMES

Report = Callable[[str, int, int], None]  # stage, done, total


class Target(NamedTuple):
    """One export: a format of the table EXPORTERS, and for GGUF its type."""

    format: str
    quantization: str | None = None

    @property
    def name(self) -> str:
        """Its folder's name under exports/."""
        return f"{self.format}-{self.quantization}" if self.quantization else self.format


_FOUR_BITS = 6.0  # bits a weight of merged_4bit, embeddings in 16 among them; a little high for large models
MERGED = Target("merged_16bit")  # what the other formats are made from


class Workbench:
    """Made in the export process, for one source and one dtype. `staging` is on the exports' own file system."""

    def __init__(self, source: Source, dtype: str, staging: Path, report: Report) -> None:
        self.source = source
        self.dtype = dtype
        self.staging = staging
        self._report = report
        self._merged: Path | None = None

    @functools.cached_property
    def base(self) -> BaseModel:
        self._report("find the base model", 0, 1)
        return self.source.base()

    @property
    def merged(self) -> Path:
        """The merged model's folder: the export where there is one, otherwise made here and dropped at the end."""
        if self._merged is None:
            folder = self.staging / MERGED.name
            self.merge_into(folder)
            self._merged = folder
        return self._merged

    @merged.setter
    def merged(self, folder: Path) -> None:
        self._merged = folder

    @functools.cached_property
    def converted(self) -> tuple[Path, str]:
        """The merged model as one GGUF file in the type of its weights, and that type's name."""
        from fastft.exporters.gguf import convert

        merged, path = self.merged, self.staging / "converted.gguf"
        self._report("convert to GGUF", 0, 1)
        kind = convert(merged, path, name=self.source.label)
        self._report("convert to GGUF", 1, 1)
        return path, kind

    def merge_into(self, folder: Path) -> dict[str, Any]:
        """Write the merged model into `folder`; returns how it was made."""
        from fastft.exporters.merged import copy_model, merge_adapter

        if self.source.is_adapter:
            merge_adapter(self.base.folder, self.source.folder, folder, self.dtype, on_tensor=self.progress("merge"))
        else:
            copy_model(self.source.folder, folder, self.dtype, on_tensor=self.progress("copy weights"))
        return {"dtype": self.dtype, "base": self.base.name, "base_weights": self.base.note}

    def progress(self, stage: str) -> Callable[[int, int], None]:
        return functools.partial(self._report, stage)

    def bytes_needed(self, targets: list[Target]) -> int:
        """Disk space that making and proving `targets` takes at its peak, from the base's parameter count."""
        parameters = sum(prod(spec.shape) for spec in open_weights(self.base.folder).specs.values())
        files = [path for path in self.source.folder.iterdir() if path.is_file()] if self.source.is_adapter else []
        adapter = sum(path.stat().st_size for path in files)
        converted = "f16" if self.dtype == "float16" else "bf16"
        there = {converted} if "converted" in self.__dict__ else set()
        return disk_needed(parameters, adapter, targets, converted, merged=self._merged is not None, there=there)


def disk_needed(
    parameters: int,
    adapter: int,
    targets: list[Target],
    converted: str,
    *,
    merged: bool,
    there: Collection[str] = (),
) -> int:
    """Bytes of `targets` and of what they are made from; `adapter` is the LoRA's bytes.

    `converted` is the GGUF type of 16 bits that others are made from; `merged` says that the merged model is there,
    `there` which GGUF types are.
    """
    types = [target.quantization for target in targets if target.quantization]
    formats = {target.format for target in targets}
    kinds = {converted, *types} if types else set()
    needed = sum(parameters * SCHEMES[kind].bits / 8 for kind in kinds - set(there))
    needed += 2 * parameters if formats - {"adapter", "gguf_lora"} and not merged else 0
    needed += parameters * _FOUR_BITS / 8 if "merged_4bit" in formats else 0
    needed += adapter if "adapter" in formats else 0
    # The LoRA in 32 bits, and for its proof the base in 16, as a folder and as a GGUF
    needed += 2 * adapter + 4 * parameters if "gguf_lora" in formats else 0
    return int(needed)


def require_space(folder: Path, needed: int) -> None:
    """Raises ExportError if the disk of `folder` has fewer than `needed` bytes free."""
    free = free_disk(folder)
    if free < needed:
        raise ExportError(
            f"The exports need {in_words(needed)} of disk at {folder}, {in_words(free)} are free",
            hint="Make room, or export fewer types at a time.",
        )
