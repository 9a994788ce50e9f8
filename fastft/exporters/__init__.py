"""Exports of a trained model, each a folder that is whole or absent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import Fault

if TYPE_CHECKING:
    from fastft.exporters.source import Trained
    from fastft.exporters.workbench import Target
    from fastft.recipe.schema import ExportSection

# format: the function that writes one export, (Workbench, Target, folder) -> how it was made
EXPORTERS = {
    "merged_16bit": "fastft.exporters.merged:export",
    "merged_4bit": "fastft.exporters.merged_4bit:export",
    "adapter": "fastft.exporters.adapter:export",
    "gguf_lora": "fastft.exporters.gguf_lora:export",
    "gguf": "fastft.exporters.gguf:export",
}

OnProgress = Callable[[str, int, int], None]  # stage, done, total


def make_exports(
    trained: Trained,
    export: ExportSection,
    log: Path,
    *,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> list[Path]:
    """Make the exports under `trained.exports`, in a process of their own; returns their folders.

    An export that is there already and was made from the same weights is kept, one made from others is an
    ExportError unless `overwrite`. Each is verified if `export.verify`. Raises ExportError, ModelError, and
    VerificationError if an export does not behave as the trained model does (it stays, for looking into).
    """
    from fastft.exporters.classifier import refuse_text_formats
    from fastft.exporters.process import run_worker

    refuse_text_formats(trained.source, export.formats)
    job = {
        **trained.as_job(),
        "targets": [list(target) for target in _targets(export)],
        "dtype": export.dtype,
        "overwrite": overwrite,
        "verify": export.verify,
    }
    return run_worker(job, log, on_progress)


def export_bytes(export: ExportSection, parameters: int, adapter: int) -> int:
    """Disk space that all exports of a recipe take, by the model's parameters and the adapter's bytes."""
    from fastft.exporters.workbench import disk_needed

    converted = "f16" if export.dtype == "float16" else "bf16"
    return disk_needed(parameters, adapter, _targets(export), converted, merged=False)


def check_export(base_config: dict[str, Any], tokenizer_folder: Path, export: ExportSection) -> list[Fault]:
    """What speaks against the exports asked for, before training; imports neither torch nor transformers."""
    from fastft.exporters.check import faults

    return faults(base_config, tokenizer_folder, export)


def _targets(export: ExportSection) -> list[Target]:
    """The folders to make, the merged model first: others are made from it. Uploading is no folder."""
    from fastft.exporters.workbench import Target

    plain = [Target(name) for name in EXPORTERS if name in export.formats and name != "gguf"]
    return plain + [Target("gguf", kind) for kind in export.gguf_types]
