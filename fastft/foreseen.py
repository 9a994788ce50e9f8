"""Where a training would go, as `train` decides it, told beforehand and without touching anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.checking import CheckReport, check
from fastft.checkpoints import step_of, whole_checkpoint
from fastft.errors import TrainingError
from fastft.resume import GoingOn, run_to_resume, unfinished_twin
from fastft.run import Run
from fastft.same_data import data_change, require_same_data, same_data

if TYPE_CHECKING:
    from fastft.recipe.schema import Recipe


def checked_and_placed(
    source: Path | str | Mapping[str, Any] | Recipe, overrides: Sequence[str], *, resume: bool | None
) -> tuple[CheckReport, str | None]:
    """(the recipe checked; the unfinished run that would go on, in words, None where a new one would begin).

    `resume` is as in `train`. Raises what checking raises and, with `resume`, what finding the run does.
    """
    if resume:
        going_on = run_to_resume(source, overrides)
        checked = check(going_on.recipe)
        require_same_data(going_on.run, checked.data.audit.as_dict())
        return checked, _in_words(going_on)
    checked = check(source, overrides)
    return checked, None if resume is False else _by_itself(source, overrides, checked)


def _by_itself(source: Any, overrides: Sequence[str], checked: CheckReport) -> str | None:
    others: list[str] = []
    try:
        twin = unfinished_twin(source, overrides, others.append)
    except TrainingError as error:
        return f"would be refused now: {error.message}"
    if twin is None:
        place = Run.next_directory(Path(checked.recipe.output_dir))
        return f"would go to {place}: {others[-1]}" if others else None
    audit = checked.data.audit.as_dict()
    if not same_data(twin.run, audit):
        change = data_change(twin.run, audit)
        return f"would begin another: {twin.run.directory} is unfinished and of other data ({change})"
    return _in_words(twin) + "; --new begins another"


def _in_words(going_on: GoingOn) -> str:
    run = going_on.run
    if run.finished:
        return f"training of {run.directory} is done; its exports would be made"
    whole = whole_checkpoint(run.checkpoints)
    return f"would go on with {run.directory} from {f'step {step_of(whole)}' if whole else 'the first step'}"
