"""Going on with a run where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from rich.console import Console
from safetensors import SafetensorError

from fastft.after_step import AfterStep
from fastft.bad_steps import FOLDER as BAD_BATCHES
from fastft.bad_steps import LIST
from fastft.base_identity import BaseIdentity
from fastft.changes import (
    Change,
    begun_with,
    changes_of,
    keep_changes,
    require_may,
    told,
    with_changes,
    without_folders,
    without_place,
)
from fastft.checkpoints import save_whole, step_of, whole_checkpoint
from fastft.disk_space import disk_told
from fastft.errors import FastftError, RecipeError, RefusedError, TrainingError
from fastft.heartbeat import is_trained_now, last_beat, require_alone
from fastft.history import METRICS
from fastft.lines import keep_where, unreadable_lines
from fastft.model_files import resolve_model
from fastft.model_fit import fit_to_model
from fastft.own_code import described, log_traceback, place_in_own_code
from fastft.recipe.load import load_recipe
from fastft.run import Run
from fastft.run_files import read_start, write_start
from fastft.stopping import Stopping, last_words

if TYPE_CHECKING:
    from fastft.recipe.schema import Recipe


@dataclass(frozen=True, slots=True)
class GoingOn:
    """An unfinished run to go on with, the recipe it goes on by, and what in that was another before."""

    run: Run
    recipe: Recipe
    changes: tuple[Change, ...] = ()

    def adopt(self, console: Console) -> None:
        """Make the recipe the run's own, and say what was changed. For who holds the run's lock."""
        if self.changes:
            keep_changes(self.run, self.recipe, self.changes)
            console.print(told(self.changes), markup=False)


def run_to_resume(source: Path | str | Mapping[str, Any] | Recipe, overrides: Sequence[str]) -> GoingOn:
    """The run to go on with: `source` itself if it is a run directory, else the newest unfinished one of the recipe.

    Raises RecipeError if the recipe isn't the run's any more in what may not change, TrainingError if there is nothing
    to resume.
    """
    named = isinstance(source, str | Path) and Path(source).is_dir()
    if named and any(override.partition("=")[0].strip() == "output_dir" for override in overrides):
        raise RecipeError(
            f"the run {source} goes on where it is, so it can't be given another output_dir",
            hint="Leave --output-dir out; a run's folder may be moved or copied while nothing trains into it.",
        )
    run = Run.open(str(source)) if named else None
    recipe = _fitted(load_recipe(run.recipe_path if run else source, overrides))
    run = run or Run.unfinished(Path(recipe.output_dir))
    require_alone(run.directory)
    changes = changes_of(run, recipe)
    require_may(run, changes)
    return GoingOn(run, recipe, changes)


def unfinished_twin(
    source: Path | str | Mapping[str, Any] | Recipe,
    overrides: Sequence[str],
    tell: Callable[[str], None] = lambda _: None,
) -> GoingOn | None:
    """The newest unfinished run of the same recipe that nobody trains now, or None.

    The same but for what doesn't touch the training itself: another length is another run, unless --resume says so.
    `tell` is told of one in training and, where none goes on, of the newest of another recipe.
    Raises TrainingError if one of the same recipe is being trained now: it would be paid for twice.
    """
    if isinstance(source, str | Path) and Path(source).is_dir():
        return None
    recipe, others = load_recipe(source, overrides), []
    for run in Run.all_unfinished(Path(recipe.output_dir)):
        if is_trained_now(run.directory):
            if _of_same_recipe(run, _fitted(recipe)) is not None:
                raise TrainingError(
                    f"{run.directory} is being trained now by the same recipe: {last_beat(run.directory)}",
                    hint="Wait for it, or end it; --new begins another run beside it.",
                )
            tell(f"{run.directory} is being trained now ({last_beat(run.directory)}); it is left alone")
        elif (going_on := _of_same_recipe(run, _fitted(recipe))) is not None:
            return going_on
        elif not run.finished:
            others.append(run)
    if others:
        tell(_of_another_recipe(others[0], _fitted(recipe)))
    return None


def require_still_none(source: Path | str | Mapping[str, Any] | Recipe, overrides: Sequence[str]) -> None:
    """Raise TrainingError if a run of the recipe was begun since `unfinished_twin` found none, as data was read."""
    if (other := unfinished_twin(source, overrides)) is not None:
        raise TrainingError(
            f"{other.run.directory} was begun by the same recipe a moment ago",
            hint="Wait for it, or end it; --new begins another run beside it.",
        )


def _of_another_recipe(run: Run, recipe: Recipe) -> str:
    """Why `run`, which is unfinished, doesn't go on by itself: an edited recipe is easily not meant as another."""
    try:
        changes = changes_of(run, recipe)
    except RecipeError:
        return f"{run.directory} is unfinished and can't be gone on with by this recipe; a new run begins"
    listed = [str(change) for change in changes if change.lengthens or change.why_not()]
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    may = all(change.why_not() is None for change in changes)
    how = "--resume goes on with it; without, a new run begins" if may else "a new run begins"
    return f"{run.directory} is unfinished, and its recipe another: {', '.join(listed[:3])}{more}; {how}"


def _of_same_recipe(run: Run, recipe: Recipe) -> GoingOn | None:
    try:
        changes = changes_of(run, recipe)
    except RecipeError:
        return None
    return None if any(change.lengthens or change.why_not() for change in changes) else GoingOn(run, recipe, changes)


def _fitted(recipe: Recipe) -> Recipe:
    """As it was written into the run: with what the model's own files say."""
    folder = resolve_model(recipe.model.model_name, recipe.model.revision, weights=False)
    return fit_to_model(recipe, folder)


def started_with(run: Run) -> dict[str, Any]:
    """The training arguments the run began with; none before it has."""
    begun = begun_with(run)
    return with_changes(begun, run) if begun else {}


def keep_start(
    run: Run, arguments: Mapping[str, Any], base: BaseIdentity, *, resumed: bool, recipe: Recipe | None = None
) -> dict[str, Any]:
    """The training arguments to go by: those given or, when resuming, those the run began with, lengthened if asked.

    The two differ where another version of fastft, or another machine, would choose other defaults. `recipe` is kept
    with them, as what a recipe.yaml that is edited later is compared with. Raises ModelError if the base model isn't
    the one the run began with.
    """
    begun = {} if recipe is None else {"recipe": without_place(recipe)}
    if resumed and run.start_path.exists():
        start = read_start(run.start_path)
        known = BaseIdentity(**start["base"])
        if known.model_name != base.model_name and without_folders(known.model_name) == without_folders(
            base.model_name
        ):
            known = replace(known, model_name=base.model_name)  # the model's folder was moved
        known.require_same(base)
        begun = {} if "recipe" in start else begun
        write_start(run.start_path, {**start, "base": known.as_dict(), **begun})
        return with_changes(start["arguments"], run)
    write_start(run.start_path, {"arguments": dict(arguments), "base": base.as_dict(), **begun})
    return dict(arguments)


def find_checkpoint(run: Run, console: Console) -> Path | None:
    """The newest whole checkpoint, or None. Damaged ones are passed over, and that is said; damaged records, too."""
    _tell_unreadable(run, console)
    return whole_checkpoint(run.checkpoints, lambda why: console.print(f"! {why}", style="yellow", markup=False))


def say_where(run: Run, console: Console, ended: str, *, insists: bool) -> None:
    """From which step a run goes on, and how it had `ended`, before anything that takes long.

    Raises TrainingError if `insists` on going on and no checkpoint is whole: hours would be taken again, unasked.
    """
    checkpoint, how = find_checkpoint(run, console), f"; it {ended}" if ended else ""
    if checkpoint is not None:
        console.print(f"going on from step {step_of(checkpoint)} ({checkpoint.name}){how}", markup=False)
        for path, what in ((run.start_path, "base model"), (run.audit_path, "data set")):
            if not path.exists():
                lost = f"! {path} is gone: nothing tells whether the {what} is the one the run began with"
                console.print(lost, style="yellow", markup=False)
        if not run.metrics_path.exists():
            lost = f"! {run.metrics_path} is gone, with what was logged until step {step_of(checkpoint)}"
            console.print(lost, style="yellow", markup=False)
    elif not any(run.checkpoints.glob("checkpoint-*")):
        console.print(f"beginning at the first step: there is no checkpoint{how}", markup=False)
    elif insists:
        raise RefusedError(
            f"none of the checkpoints in {run.checkpoints} is whole, so there is no step to go on from",
            hint=f"Put one back as it was written. To begin at the first step instead: --new for a new run, or delete "
            f"{run.checkpoints} and go on with this one.",
        )
    else:
        console.print(f"! no checkpoint is whole: beginning again at the first step{how}", style="yellow", markup=False)


def train_to_the_end(trainer: Any, run: Run, checkpoint: Path | None, stopping: Stopping) -> None:
    """Train, from `checkpoint` if there is one. Raises TrainingError that says where it stopped and how to go on."""
    _forget_points_after(run, step_of(checkpoint))
    after_step = AfterStep(trainer, stopping, checkpoint)
    save_whole(trainer, after_step.keep, checkpoint)
    trainer.callback_handler.callbacks.insert(1, stopping.callback())  # what looks at a step sees that it is saved
    after_step.attach()
    stopping.last_words = partial(last_words, trainer, run)
    stopping.graceful = True
    try:
        with disk_told(run.directory):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt:
        why = stopping.received.name if stopping.received is not None else "interrupted"
        raise _ended(trainer, run, why, stopping.exit_code) from None
    except UnpicklingError as error:
        raise TrainingError(
            f"{checkpoint} holds more than numbers, which a program could hide in, so it isn't read",
            hint="fastft didn't write it so. Delete that folder; training then goes on from the checkpoint before it.",
        ) from error
    # The last five are what libraries raise over a checkpoint that is whole, and not what they would have written.
    except (
        RuntimeError, OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, SafetensorError,
    ) as error:  # fmt: skip
        raise _failed(trainer, run, error) from error
    except Exception as error:
        if not place_in_own_code(error, run):
            raise
        raise _failed(trainer, run, error) from error
    finally:
        stopping.graceful = False
    if stopping.received is not None:
        raise _ended(trainer, run, stopping.received.name, stopping.exit_code)


def _ended(trainer: Any, run: Run, why: str, exit_code: int) -> TrainingError:
    error = TrainingError(_stopped(trainer, why), hint=_how_to_go_on(run))
    error.exit_code, error.wanted = exit_code, True
    return error


def _failed(trainer: Any, run: Run, error: Exception) -> TrainingError:
    """What `error` says and where in the recipe's own files it arose; its traceback goes to train.log."""
    logged = "What the libraries said is"
    if not isinstance(error, FastftError) or place_in_own_code(error, run):
        log_traceback(error)
        logged = "The traceback and what the libraries said are"
    return TrainingError(_stopped(trainer, described(error, run)), hint=_how_to_go_on(run, logged))


def _stopped(trainer: Any, reason: str) -> str:
    return f"training stopped at step {trainer.state.global_step} of {trainer.state.max_steps}: {reason}"


def _how_to_go_on(run: Run, logged: str = "What the libraries said is") -> str:
    checkpoint = whole_checkpoint(run.checkpoints)
    reached = f"from step {step_of(checkpoint)}" if checkpoint else "from the start (no checkpoint was written yet)"
    return f"Go on {reached}: fastft train {run.directory} --resume. {logged} in {run.log_path}."


def _forget_points_after(run: Run, step: int) -> None:
    """Steps after the checkpoint will be taken again; each shall stand in metrics.jsonl once.

    The line of the whole training goes too, and one that was cut off.
    """
    keep_where(run.metrics_path, lambda point: 0 < step >= int(point["step"]) and "train_runtime" not in point)


def _tell_unreadable(run: Run, console: Console) -> None:
    """Lines that can't be read are left out when a run goes on; how many, and which is the first."""
    for name in (METRICS, "samples.jsonl", "completions.jsonl", f"{BAD_BATCHES}/{LIST}"):
        if numbers := unreadable_lines(run.directory / name):
            lines = "1 unreadable line is" if len(numbers) == 1 else f"{len(numbers):,} unreadable lines are"
            told = f"! {run.directory / name}: {lines} left out; the first is line {numbers[0]:,}"
            console.print(told, style="yellow", markup=False, soft_wrap=True)
