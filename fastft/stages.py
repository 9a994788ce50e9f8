"""A run as the model of the next one: what it stands for, its merged weights, and the line of runs before it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import ModelError, RecipeError, VerificationError
from fastft.files import at_home, sha256_of, write_json
from fastft.run import Run
from fastft.run_files import has_passed, read_export

if TYPE_CHECKING:
    from rich.console import Console

    from fastft.exporters.source import Trained
    from fastft.recipe.schema import Recipe

_MERGED = "merged_16bit"
_MERGE_AGAIN = "It is the next run's base. Make it again: fastft export {} --format merged_16bit"


def stage_at(folder: Path) -> Run | None:
    """The run whose directory `folder` is. Raises ModelError if it hasn't finished, or is a reward model's."""
    if not (folder / "recipe.yaml").is_file():
        return None
    run = Run.open(folder)
    if run.manifest().get("method") == "reward":
        raise ModelError(
            f"{run.directory} is a reward model, which writes no text, so nothing can be trained on it",
            hint="It can judge answers: method grpo or rloo with rewards: [{run: " + str(run.directory) + "}].",
        )
    return run


def require_judges(recipe: Recipe) -> None:
    """Raises RecipeError for a reward run that isn't there yet."""
    faults = [
        recipe.fault(f"rewards.{index}.run", f"there is no run {reward.run} yet", "a finished run of method reward")
        for index, reward in enumerate(recipe.rewards)
        if reward.run is not None and not (Path(reward.run) / "manifest.json").is_file()
    ]
    if faults:
        hint = "It is the stage before this one: train that first. Looked beside the recipe and in this folder."
        raise RecipeError(f"{recipe.source or 'recipe'}: a judge is missing", faults=faults, hint=hint)


def stage_folder(run: Run, *, weights: bool) -> Path:
    """The run's model as a folder in transformers' format: what was fully fine-tuned, or the merged export.

    Where that isn't made yet, and `weights` aren't needed, a folder with the small files it will have. Raises
    ModelError if they are needed: `prepare_stage` makes them.
    """
    if run.model_dir.is_dir():
        return run.model_dir
    merged = run.exports / _MERGED
    if (merged / "export.json").is_file():
        return merged
    if weights:
        raise ModelError(f"{run.directory} has no merged model", hint=_MERGE_AGAIN.format(run.directory))
    return _small_files(run)


def prepare_stage(model_name: str, console: Console) -> None:
    """Where `model_name` is a run, merge its adapter into 16-bit weights beside it, proven, unless that is done.

    What was trained little can be lost where weights are rounded to 16 bits; that is told, and no reason to stop, as
    the next stage learns on from the rounded ones. Raises ExportError or ModelError if the merge can't be made.
    """
    run = stage_at(at_home(model_name))
    if run is None or run.model_dir.is_dir():
        return
    from fastft.exporters import make_exports
    from fastft.exporters.source import Trained
    from fastft.progress import working
    from fastft.recipe.export_section import ExportSection

    merged = run.exports / _MERGED
    if _is_current(Trained.of_run(run), merged):
        _require_unchanged(merged, run)
        if _failed(merged):
            console.print(f"! {run.name} merged into 16 bits differs from what was trained: {merged}", style="yellow")
        return
    export = ExportSection.model_validate({"formats": [_MERGED]})
    try:
        with working(console, f"merging the model of {run.name}") as change:
            make_exports(Trained.of_run(run), export, run.log_path, on_progress=lambda stage, *_: change(stage))
    except VerificationError as error:
        console.print(f"! what is trained on is {run.name} merged into 16 bits, and {error.message}", style="yellow")


def _is_current(trained: Trained, merged: Path) -> bool:
    """Whether the merged export is there and was made from the run's adapter as it is now."""
    path = merged / "export.json"
    if not path.is_file():
        return False
    return read_export(merged)["made_from"].get("sha256") == trained.source.fingerprint()


def _require_unchanged(merged: Path, run: Run) -> None:
    """Raises ModelError if a file of the merged model isn't the one that was exported."""
    files = read_export(merged)["files"]
    changed = [n for n, digest in files.items() if not (merged / n).is_file() or sha256_of(merged / n) != digest]
    if changed:
        raise ModelError(
            f"{merged / changed[0]} is not the file that was exported",
            hint=f"{_MERGE_AGAIN.format(run.directory)} --overwrite",
        )


def _failed(merged: Path) -> bool:
    return (merged / "verification.json").is_file() and not has_passed(merged)


def lineage(name: str, method: str, parents: Mapping[str, str]) -> list[dict[str, Any]]:
    """The runs that led to a run and, last, the run itself: a mapping each.

    `parents` tells what the run started from (a model_name, an adapter, reward runs): role -> name. Those that are no
    runs are where the line begins, and stand in the first run's `from`.
    """
    line: list[dict[str, Any]] = []
    for role, parent in parents.items():
        run = Run(Path(parent)) if (Path(parent) / "manifest.json").is_file() else None
        if run is not None:
            before = run.manifest().get("lineage") or [{"run": run.name, "method": run.manifest().get("method")}]
            *older, itself = before
            line += [entry for entry in older if entry not in line]
            digest = sha256_of(run.manifest_path)
            line.append({**itself, "role": role, "directory": str(run.directory), "manifest_sha256": digest})
    return [*line, {"run": name, "method": method, "from": dict(parents)}]


def _small_files(run: Run) -> Path:
    """config.json of the base with tokenizer and template of the run, in the user's cache; made once a run."""
    from fastft.data.cache import cache_folder
    from fastft.exporters.base_model import base_of_run
    from fastft.model_files import read_config

    place = cache_folder().parent / "stages" / sha256_of(run.manifest_path)
    if (place / "config.json").is_file():
        return place
    config = read_config(base_of_run(run.manifest()).folder)
    config.pop("quantization_config", None)
    made = place.with_name(f".{place.name}.{os.getpid()}")
    made.mkdir(parents=True, exist_ok=True)
    for path in run.adapter.iterdir():
        if path.suffix in (".json", ".jinja", ".model", ".txt") and not path.name.startswith("adapter"):
            shutil.copyfile(path, made / path.name)
    write_json(made / "config.json", config)
    try:
        made.replace(place)
    except OSError:  # another process was first
        shutil.rmtree(made, ignore_errors=True)
    return place
