"""The public `export`: what a run's recipe (or the caller) asks for, made, verified, uploaded and shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fastft.errors import Fault, RecipeError
from fastft.exporters import OnProgress, make_exports
from fastft.exporters.hub import upload_exports
from fastft.exporters.tensor_types import SCHEMES
from fastft.progress import is_live, working
from fastft.reading import read_yaml, require_shape
from fastft.recipe.schema import ExportSection
from fastft.recipe.suggest import nearest
from fastft.run import Run
from fastft.verification import trained_at

if TYPE_CHECKING:
    from rich.console import Console


def export(
    target: Run | Path | str,
    formats: Sequence[str] | str = (),
    quantization_method: Sequence[str] | str = (),
    *,
    dtype: str | None = None,
    base: str | None = None,
    overwrite: bool = False,
    verify: bool | None = None,
    hub_model_id: str | None = None,
    console: Console | None = None,
    watch: Callable[[], object] = lambda: None,
) -> list[Path]:
    """Export a finished run, or any PEFT LoRA folder, and verify each export; returns the exports' folders.

    They lie in exports/ inside the run or the adapter folder. What is left empty is as the run's recipe says. Needs
    that directory and its base model, nothing else; `base` names another base than the adapter does, and `dtype` is
    that of merged weights, "bfloat16" or "float16". `watch` is called whenever something of it is done.

    Raises RecipeError for an unknown format or type, ModelError for a run that isn't finished, ExportError if an
    export can't be made, VerificationError if one does not behave as the trained model does.
    """
    asked = {"formats": formats, "quantization_method": quantization_method}
    asked |= {"dtype": dtype, "verify": verify, "hub_model_id": hub_model_id}
    section = _section(target, asked)
    trained, log = trained_at(target, base=base)
    if "hub" in section.formats and section.hub_model_id is None:
        raise RecipeError("hub is among the formats, and no repository is named", hint="Add --hub-model-id me/my-model")
    if not section.formats:
        raise RecipeError(
            f"nothing says what to export of {_folder(target)}",
            hint=f"Say it: fastft export {_folder(target)} --format gguf --quantization q8_0",
        )
    there = {} if overwrite else _made(trained.exports)
    with _status(console, watch) as on_progress:
        folders = make_exports(trained, section, log, overwrite=overwrite, on_progress=on_progress)
        if "hub" in section.formats:
            upload_exports(trained, section, on_progress=on_progress, console=console)
    for folder in folders:
        if console is not None and folder in there and there[folder] == _made(trained.exports)[folder]:
            again = f"fastft export {_folder(target)} --overwrite makes it again"
            console.print(f"  kept {folder.name}: made from the same weights before; {again}", soft_wrap=True)
    return folders


def _folder(target: Run | Path | str) -> Path:
    return target.directory if isinstance(target, Run) else Path(target)


def _made(exports: Path) -> dict[Path, int]:
    """When each export was made, by its folder."""
    return {path.parent: path.stat().st_mtime_ns for path in exports.glob("*/export.json")}


def _section(target: Run | Path | str, asked: dict[str, Any]) -> ExportSection:
    """The recipe's export section, where there is one, with what the caller says laid over it."""
    path = _folder(target) / "recipe.yaml"
    recipe = read_yaml(path, RecipeError) if path.is_file() else {}
    values = dict(require_shape(recipe.get("export") or {}, dict[str, Any], f"{path}: export", RecipeError))
    types = asked["quantization_method"]
    if asked["formats"] or types:
        values["formats"] = asked["formats"] or ["gguf"]
    if types and "gguf" not in (asked["formats"] or ["gguf"]):
        raise RecipeError(
            "quantization types were given, and gguf is not among the formats",
            hint="Add --format gguf, or leave --quantization out.",
        )
    values |= {key: value for key, value in asked.items() if key != "formats" and value not in (None, ())}
    try:
        return ExportSection.model_validate(values)
    except ValidationError as error:
        raise RecipeError("the export can't be made as asked", faults=[_fault(e) for e in error.errors()]) from None


def _fault(error: Any) -> Fault:
    where, found = str(error["loc"][0]), str(error["input"])
    expected = error.get("ctx", {}).get("expected", error["msg"])
    close = nearest(found, [name.strip("' ") for name in expected.replace(" or ", ",").split(",")])
    hint = f"Did you mean {close}?" if close else ""
    if where == "formats" and found.lower() in SCHEMES:
        hint = f"That is a type of GGUF: --format gguf --quantization {found.lower()}"
    return Fault(where, f"{found!r} is not known", expected, hint)


@contextmanager
def _status(console: Console | None, watch: Callable[[], object]) -> Iterator[OnProgress]:
    """A live line that names the stage; where there is no terminal, one line a stage."""
    last = ""

    def show(stage: str, done: int, total: int) -> None:
        nonlocal last
        watch()
        if console is None:
            return
        if is_live(console):
            update(f"{stage} {done}/{total}" if total > 1 else stage)
        elif stage != last:
            console.print(f"  {stage}", highlight=False)
        last = stage

    if console is None:
        yield show
        return
    with working(console, "exporting") as update:
        yield show
