"""The public `export`: what a run's recipe (or the caller) asks for, made, verified and shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from fastft.errors import Fault, RecipeError
from fastft.exporters import OnProgress, export_run
from fastft.progress import is_live, working
from fastft.recipe.schema import ExportSection
from fastft.recipe.suggest import nearest
from fastft.run import Run

if TYPE_CHECKING:
    from rich.console import Console


def export(
    run: Run | Path | str,
    formats: Sequence[str] | str = (),
    quantization_method: Sequence[str] | str = (),
    *,
    overwrite: bool = False,
    verify: bool | None = None,
    console: Console | None = None,
) -> list[Path]:
    """Export a finished run and verify each export; returns their folders, below the run's exports/.

    What is left empty is as the run's recipe says. Needs the run directory and its base model, nothing else.

    Raises RecipeError for an unknown format or type, ModelError for a run that isn't finished, ExportError if an
    export can't be made, VerificationError if one does not behave as the trained model does.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    section = _section(run, formats, quantization_method, verify)
    if not section.formats:
        raise RecipeError(
            f"the recipe of {run.directory} asks for no exports",
            hint="Say which: fastft export RUN --format gguf --quantization q8_0",
        )
    there = {} if overwrite else _made(run)
    with _status(console) as on_progress:
        folders = export_run(run.directory, section, overwrite=overwrite, on_progress=on_progress)
    for folder in folders:
        if console is not None and folder in there and there[folder] == _made(run)[folder]:
            console.print(f"  kept {folder.name}: made from the same weights before; --overwrite makes it again")
    return folders


def _made(run: Run) -> dict[Path, int]:
    """When each export of the run was made, by its folder."""
    return {path.parent: path.stat().st_mtime_ns for path in run.exports.glob("*/export.json")}


def _section(
    run: Run, formats: Sequence[str] | str, quantization_method: Sequence[str] | str, verify: bool | None
) -> ExportSection:
    """The recipe's export section with what the caller says laid over it."""
    recipe = yaml.safe_load(run.recipe_path.read_text(encoding="utf-8")) or {}
    values: dict[str, Any] = dict(recipe.get("export") or {})
    if formats or quantization_method:
        values["formats"] = formats or ["gguf"]
    if quantization_method and "gguf" not in (formats or ["gguf"]):
        raise RecipeError(
            "quantization types were given, and gguf is not among the formats",
            hint="Add --format gguf, or leave --quantization out.",
        )
    if quantization_method:
        values["quantization_method"] = quantization_method
    if verify is not None:
        values["verify"] = verify
    try:
        return ExportSection.model_validate(values)
    except ValidationError as error:
        raise RecipeError("the export can't be made as asked", faults=[_fault(e) for e in error.errors()]) from None


def _fault(error: Any) -> Fault:
    where, found = str(error["loc"][0]), str(error["input"])
    expected = error.get("ctx", {}).get("expected", error["msg"])
    close = nearest(found, [name.strip("' ") for name in expected.replace(" or ", ",").split(",")])
    return Fault(where, f"{found!r} is not known", expected, f"Did you mean {close}?" if close else "")


@contextmanager
def _status(console: Console | None) -> Iterator[OnProgress | None]:
    """A live line that names the stage; where there is no terminal, one line a stage."""
    if console is None:
        yield None
        return
    last = ""

    def show(stage: str, done: int, total: int) -> None:
        nonlocal last
        if is_live(console):
            update(f"{stage} {done}/{total}" if total > 1 else stage)
        elif stage != last:
            console.print(f"  {stage}", highlight=False)
        last = stage

    with working(console, "exporting") as update:
        yield show
