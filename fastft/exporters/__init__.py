"""Exports of a trained model, each a folder that is whole or absent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import Fault

if TYPE_CHECKING:
    from fastft.exporters.workbench import Source
    from fastft.recipe.schema import ExportSection
    from fastft.run import Run

# format: the function that writes one export, (Workbench, Target, folder) -> how it was made
EXPORTERS = {
    "merged_16bit": "fastft.exporters.merged:export",
    "gguf": "fastft.exporters.gguf:export",
}

OnProgress = Callable[[str, int, int], None]  # stage, done, total


def export_run(
    run_dir: Path, export: ExportSection, *, overwrite: bool = False, on_progress: OnProgress | None = None
) -> list[Path]:
    """Make the exports of a finished run under exports/, in a process of their own; returns their folders.

    An export that is there already and was made from the same weights is kept, one made from others is an
    ExportError unless `overwrite`. Each is verified if `export.verify`. Raises ExportError, ModelError, and
    VerificationError if an export does not behave as the trained model does (it stays, for looking into).
    """
    from fastft.exporters.process import run_worker
    from fastft.run import Run

    run = Run.open(run_dir)
    job = _job(_source_of_run(run), run.exports, export, overwrite)
    return run_worker({**job, "run_dir": str(run.directory) if export.verify else None}, run.log_path, on_progress)


def export_adapter(
    adapter: Path, out: Path, export: ExportSection, *, overwrite: bool = False, on_progress: OnProgress | None = None
) -> list[Path]:
    """Make exports of any PEFT LoRA adapter folder under `out`. They are not verified: there is no held-out data."""
    from fastft.exporters.process import run_worker

    out.mkdir(parents=True, exist_ok=True)
    job = _job(_source_of_adapter(adapter.absolute()), out.absolute(), export, overwrite)
    return run_worker({**job, "run_dir": None}, out.absolute() / "export.log", on_progress)


def check_export(base_config: dict[str, Any], tokenizer_folder: Path, export: ExportSection) -> list[Fault]:
    """What speaks against the exports asked for, before training; imports neither torch nor transformers."""
    from fastft.exporters.check import faults

    return faults(base_config, tokenizer_folder, export.formats)


def _source_of_run(run: Run) -> Source:
    from fastft.base_identity import BaseIdentity
    from fastft.exporters.workbench import Source

    model = run.trained_manifest()["model"]
    is_adapter = run.adapter.is_dir()
    folder = run.adapter if is_adapter else run.model_dir
    trained_on = BaseIdentity(**model["base"])
    return Source(folder, is_adapter, model["model_name"], model["revision"], run.name, trained_on)


def _source_of_adapter(adapter: Path) -> Source:
    from fastft.base_identity import BaseIdentity
    from fastft.exporters.lora import read_config
    from fastft.exporters.workbench import Source

    config = read_config(adapter)
    base = config["base_model_name_or_path"]
    return Source(adapter, True, base, config.get("revision"), adapter.name, BaseIdentity(base))


def _job(source: Source, exports: Path, export: ExportSection, overwrite: bool) -> dict[str, Any]:
    return {
        "source": {**asdict(source), "folder": str(source.folder)},
        "exports": str(exports),
        "targets": _targets(export.formats, export.quantization_method),
        "dtype": export.dtype,
        "overwrite": overwrite,
    }


def _targets(formats: Sequence[str], types: str | Sequence[str]) -> list[tuple[str, str | None]]:
    """Merged first: the others are made from it."""
    chosen = (types,) if isinstance(types, str) else types
    merged: list[tuple[str, str | None]] = [("merged_16bit", None)] if "merged_16bit" in formats else []
    return merged + ([("gguf", kind) for kind in dict.fromkeys(chosen)] if "gguf" in formats else [])
