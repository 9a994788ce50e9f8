"""What all exports of one call are made from, each thing made at most once: the merged model and its 16-bit GGUF."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from fastft.base_identity import BaseIdentity
from fastft.errors import ExportError
from fastft.exporters.base_model import BaseModel, open_weights, resolve_base
from fastft.exporters.tensor_types import SCHEMES
from fastft.files import folder_hashes

Report = Callable[[str, int, int], None]  # stage, done, total


class Target(NamedTuple):
    """One export: a format of the table EXPORTERS, and for GGUF its type."""

    format: str
    quantization: str | None = None

    @property
    def name(self) -> str:
        """Its folder's name under exports/."""
        return f"{self.format}-{self.quantization}" if self.quantization else self.format


MERGED = Target("merged_16bit")  # what the other formats are made from


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported: a LoRA adapter on its base model, or the folder of a fully fine-tuned model."""

    folder: Path
    is_adapter: bool
    model_name: str
    revision: str | None
    label: str  # goes into GGUF metadata as the model's name
    trained_on: BaseIdentity

    def base(self) -> BaseModel:
        """Raises ModelError if the base is gone, or isn't the one the adapter was trained on."""
        if not self.is_adapter:
            return BaseModel(self.folder, self.model_name, "fully fine-tuned weights")
        return resolve_base(self.model_name, self.revision, self.trained_on)

    @classmethod
    def from_job(cls, values: dict[str, Any]) -> Source:
        """The source that `asdict` and JSON made `values` of."""
        return cls(**{**values, "folder": Path(values["folder"]), "trained_on": BaseIdentity(**values["trained_on"])})

    def fingerprint(self) -> str:
        """Of the trained files' content: two exports of one fingerprint and dtype hold the same weights."""
        return hashlib.sha256(json.dumps(folder_hashes(self.folder)).encode()).hexdigest()


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
        """Disk space that making `targets` takes at its peak, from the base's parameter count."""
        parameters = sum(prod(spec.shape) for spec in open_weights(self.base.folder).specs.values())
        merged = 0 if self._merged else 2 * parameters
        return merged + gguf_bytes(parameters, targets, "f16" if self.dtype == "float16" else "bf16")


def gguf_bytes(parameters: int, targets: list[Target], converted: str) -> int:
    """Bytes of the GGUF files among `targets` and of the one they are made from, whose type is `converted`."""
    types = [target.quantization for target in targets if target.quantization]
    kinds = {converted, *types} if types else set()
    return int(sum(parameters * SCHEMES[kind].bits / 8 for kind in kinds))


def require_space(folder: Path, needed: int) -> None:
    """Raises ExportError if the disk of `folder` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ExportError(
            f"The exports need {in_words(needed)} of disk at {folder}, {in_words(free)} are free",
            hint="Make room, or export fewer types at a time.",
        )


def in_words(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
