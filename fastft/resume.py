"""Going on with a run where it stopped."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from fastft.base_identity import BaseIdentity
from fastft.checkpoints import save_whole, step_of, whole_checkpoint
from fastft.errors import DatasetError, RecipeError, TrainingError
from fastft.files import write_json, write_text
from fastft.heartbeat import is_trained_now
from fastft.model_files import resolve_model
from fastft.model_fit import fit_to_model
from fastft.recipe.load import load_recipe
from fastft.run import Run
from fastft.stopping import Stopping

if TYPE_CHECKING:
    from fastft.recipe.schema import Recipe


def run_to_resume(source: Path | str | Mapping[str, Any] | Recipe, overrides: Sequence[str]) -> Run:
    """The run to go on with: `source` itself if it is a run directory, else the newest unfinished one of the recipe.

    Raises RecipeError if the recipe isn't the run's any more, TrainingError if there is nothing to resume.
    """
    if isinstance(source, str | Path) and Path(source).is_dir():
        if overrides:
            raise RecipeError(
                f"a resumed run keeps its recipe, so {shlex.join(overrides)} can't be applied",
                hint="Leave the overrides out, or start a new run without --resume.",
            )
        return Run.open(source)
    recipe = load_recipe(source, overrides)
    model = recipe.model
    recipe = fit_to_model(recipe, resolve_model(model.model_name, model.revision, weights=False))
    run = Run.unfinished(Path(recipe.output_dir))
    _refuse_another_recipe(run, recipe)
    return run


def unfinished_twin(source: Path | str | Mapping[str, Any] | Recipe, overrides: Sequence[str]) -> Run | None:
    """The newest unfinished run of the same recipe that nobody trains now, or None."""
    if isinstance(source, str | Path) and Path(source).is_dir():
        return None
    recipe = load_recipe(source, overrides)
    try:
        run = Run.unfinished(Path(recipe.output_dir))
    except TrainingError:
        return None
    if is_trained_now(run.directory):
        return None
    model = recipe.model
    return (
        None
        if _changed(run, fit_to_model(recipe, resolve_model(model.model_name, model.revision, weights=False)))
        else run
    )


def _refuse_another_recipe(run: Run, recipe: Recipe) -> None:
    if listed := _changed(run, recipe):
        raise RecipeError(
            f"the recipe is not the one {run.directory} began with: {listed}",
            hint=f"Resume with the run's own recipe: fastft train {run.directory} --resume",
        )


def _changed(run: Run, recipe: Recipe) -> str:
    """Each key whose value isn't that of the run's recipe, with both values."""
    try:
        was = _flat(yaml.safe_load(run.recipe_path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError):
        return f"{run.recipe_path} is no recipe any more"
    now = _flat(yaml.safe_load(recipe.to_yaml()))
    keys = sorted((was.keys() | now.keys()) - {"output_dir"})  # the run was found there
    return "; ".join(
        f"{key} was {was.get(key)!r} and is {now.get(key)!r}" for key in keys if was.get(key) != now.get(key)
    )


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        flat |= _flat(item, f"{name}.") if isinstance(item, Mapping) else {name: item}
    return flat


def same_data(run: Run, audit: Mapping[str, Any]) -> bool:
    """Whether the run began with these examples, or with none yet."""
    if not run.audit_path.is_file():
        return True
    was = json.loads(run.audit_path.read_text(encoding="utf-8"))
    return was["examples_sha256"] == audit["examples_sha256"]


def guard_same_data(run: Run, audit: Mapping[str, Any], *, resumed: bool) -> None:
    """Keep the data's audit in the run; when resuming, refuse examples that are not those the run began with."""
    if resumed and run.audit_path.is_file():
        if not same_data(run, audit):
            was = json.loads(run.audit_path.read_text(encoding="utf-8"))
            same_rows = was["fingerprint"] == audit["fingerprint"]
            what = "tokenizer or chat template" if same_rows else "data set"
            raise DatasetError(
                f"the {what} changed since {run.directory} began: the examples are not the same",
                hint=f"Put the former {what} back, or start a new run: --new.",
            )
        return
    write_json(run.audit_path, audit)


def started_with(run: Run) -> dict[str, Any]:
    """The training arguments the run began with; none before it has."""
    if not run.start_path.is_file():
        return {}
    return json.loads(run.start_path.read_text(encoding="utf-8"))["arguments"]


def keep_start(run: Run, arguments: Mapping[str, Any], base: BaseIdentity, *, resumed: bool) -> dict[str, Any]:
    """The training arguments to go by: those given or, when resuming, those the run began with.

    The two differ where another version of fastft, or another machine, would choose other defaults. Raises ModelError
    if the base model isn't the one the run began with.
    """
    if resumed and run.start_path.is_file():
        start = json.loads(run.start_path.read_text(encoding="utf-8"))
        BaseIdentity(**start["base"]).require_same(base)
        return start["arguments"]
    write_json(run.start_path, {"arguments": dict(arguments), "base": base.as_dict()})
    return dict(arguments)


def find_checkpoint(run: Run, console: Console) -> Path | None:
    """The newest whole checkpoint, or None. Damaged ones are passed over, and that is said."""
    return whole_checkpoint(run.checkpoints, lambda why: console.print(f"! {why}", style="yellow", markup=False))


def train_to_the_end(trainer: Any, run: Run, checkpoint: Path | None, stopping: Stopping) -> None:
    """Train, from `checkpoint` if there is one. Raises TrainingError that says where it stopped and how to go on."""
    _forget_points_after(run, step_of(checkpoint))
    save_whole(trainer)
    trainer.add_callback(stopping.callback())
    stopping.graceful = True
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt:
        raise _ended(trainer, run, "interrupted", stopping.exit_code) from None
    except (RuntimeError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TrainingError(_stopped(trainer, reason), hint=_how_to_go_on(run)) from error
    finally:
        stopping.graceful = False
    if stopping.received is not None:
        raise _ended(trainer, run, stopping.received.name, stopping.exit_code)


def _ended(trainer: Any, run: Run, why: str, exit_code: int) -> TrainingError:
    error = TrainingError(_stopped(trainer, why), hint=_how_to_go_on(run))
    error.exit_code = exit_code
    return error


def _stopped(trainer: Any, reason: str) -> str:
    return f"training stopped at step {trainer.state.global_step} of {trainer.state.max_steps}: {reason}"


def _how_to_go_on(run: Run) -> str:
    checkpoint = whole_checkpoint(run.checkpoints)
    reached = f"from step {step_of(checkpoint)}" if checkpoint else "from the start (no checkpoint was written yet)"
    return f"Go on {reached}: fastft train {run.directory} --resume. What the libraries said is in {run.log_path}."


def _forget_points_after(run: Run, step: int) -> None:
    """Steps after the checkpoint will be taken again; each shall stand in metrics.jsonl once."""
    points = run.metrics()
    kept = [point for point in points if point["step"] <= step]
    if len(kept) != len(points):
        write_text(run.metrics_path, "".join(json.dumps(point) + "\n" for point in kept))
