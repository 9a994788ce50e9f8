"""The spine: a recipe becomes a run. Reads as the picture in docs/design.md, top to bottom."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fastft import backend, report
from fastft.assembly import Around, load, make_trainer, tell_on
from fastft.bad_steps import FOLDER as BAD_BATCHES
from fastft.bad_steps import BadSteps
from fastft.checking import CheckReport, check
from fastft.checkpoints import step_of, whole_checkpoint
from fastft.disk_space import disk_told
from fastft.errors import TrainingError, VerificationError
from fastft.heartbeat import alone_in_run
from fastft.history import history_of
from fastft.host_memory import asking_for_no_more, require_address_space
from fastft.killed import with_less_if_killed
from fastft.out_of_memory import (
    StepStart,
    TooLittleMemoryError,
    failed_in,
    give_back,
    hint_of,
    let_go,
    memory_for,
    ran_out_of_memory,
    reductions,
    take_less,
    too_little,
)
from fastft.planning.disk import require_disk
from fastft.quiet import library_output_to
from fastft.recipe.overrides import output_dir_override
from fastft.resume import GoingOn, require_still_none, run_to_resume, say_where, unfinished_twin
from fastft.run import Run
from fastft.same_data import data_change, require_same_data, same_data
from fastft.startup import Startup
from fastft.stopping import stopping_on_signals
from fastft.user_console import user_console

if TYPE_CHECKING:
    from fastft.recipe.schema import Recipe


def train(
    source: Path | str | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    *,
    output_dir: Path | str | None = None,
    resume: bool | None = None,
    console: Console | None = None,
    startup: Startup | None = None,
) -> Run:
    """Train what the recipe says, export it and verify the exports. Returns the run.

    `source` is a recipe file, a mapping, a Recipe, or (to resume) a run directory. `overrides` are
    "section.key=value". With `resume` the newest unfinished run of the recipe's output_dir goes on where it was, and
    one that isn't of this recipe is refused; with False a new run begins. None goes on if there is one of the same
    recipe, else begins a new one.
    `startup` is a clock that began before this call, with the command.

    Raises RecipeError, DatasetError and ModelError before anything is written; TrainingError and ExportError later,
    when the run directory keeps what was reached; VerificationError if an export doesn't behave as trained.
    """
    console, startup = console or user_console(tireless=True), startup or Startup()
    warn = partial(tell_on, console)
    overrides = (*overrides, *output_dir_override(output_dir))
    checked, going_on = _check_and_find(source, overrides, resume, warn)
    resumed = going_on.run if going_on else None
    startup.done("check")
    output = Path(checked.recipe.output_dir)
    require_address_space()
    require_disk(checked.plan.disk, resumed or Run(Run.next_directory(output)))
    with disk_told(output):
        run = resumed or Run.create(output, checked.recipe.to_yaml())
    console.print(report.opening(checked, run, resumed=resumed is not None))
    try:
        _train_and_export(run, going_on, checked, console, startup, insists=bool(resume))
    except VerificationError:  # which exports did pass is told, too
        console.print(report.closing(run.directory))
        raise
    console.print(report.closing(run.directory))
    return run


def _check_and_find(
    source: Path | str | Mapping[str, Any] | Recipe,
    overrides: Sequence[str],
    resume: bool | None,
    warn: Callable[[str], None],
) -> tuple[CheckReport, GoingOn | None]:
    """(the recipe checked, the run to go on with or None for a new one), as `train` tells of `resume`."""
    going_on = run_to_resume(source, overrides) if resume else None
    twin = unfinished_twin(source, overrides, warn) if resume is None else None
    checked = check(going_on.recipe if going_on else source, () if going_on else overrides)
    audit = checked.data.audit.as_dict()
    if going_on is not None:
        require_same_data(going_on.run, audit)
    elif twin is not None and same_data(twin.run, audit):
        going_on = twin
    elif twin is not None:
        warn(f"{twin.run.directory} is unfinished and of other data ({data_change(twin.run, audit)}); a new run begins")
    elif resume is None:
        require_still_none(source, overrides)
    return checked, going_on


def _train_and_export(
    run: Run, going_on: GoingOn | None, checked: CheckReport, console: Console, startup: Startup, *, insists: bool
) -> None:
    """All that is done under the run's lock: what is left of its training, then its exports."""
    exports = checked.recipe.export.formats
    with (
        disk_told(run.directory),
        alone_in_run(run.directory) as heartbeat,
        history_of(run.directory, heartbeat) as history,
    ):
        if going_on is not None:
            going_on.adopt(console)
            with_less_if_killed(run, heartbeat.before, partial(tell_on, console))
        if run.finished:
            console.print("The training of this run is finished." + (" Now its exports." if exports else ""))
        else:
            if going_on is not None:
                say_where(run, console, history.last_end(), insists=insists)
            with library_output_to(run.log_path, console) as user, stopping_on_signals(user) as stopping:
                around = Around(run, user, startup, stopping, heartbeat, history)
                _train_as_memory_allows(around, checked, going_on is not None)
        if exports:
            heartbeat.beat("exporting")
            with stopping_on_signals(console):
                run.export(console=console, watch=partial(heartbeat.beat, "exporting", now=False))


class _AgainError(Exception):
    """Memory ran out in a step, and training shall go on with less."""


def _train_as_memory_allows(around: Around, checked: CheckReport, resumed: bool) -> None:
    """Train; where memory runs out in a step, go on with half the micro-batch, which is recorded.

    Raises TooLittleMemoryError with the run where a process that begins afresh may come further: the allocator of
    this one holds in pieces what was needed with more.
    """
    before = reductions(around.run)
    while True:
        try:
            with memory_for("to train"):
                _train(around, checked, resumed=resumed)
            return
        except TooLittleMemoryError as error:
            if reductions(around.run) > before:
                error.run = around.run.directory
                error.hint = f"With less it may go on: fastft train {around.run.directory} --resume.\n{error.hint}"
            raise
        except _AgainError as error:
            give_back(error)
            around.tell(str(error))
            around.history.stopped(str(error))
        resumed = True


def _train(around: Around, checked: CheckReport, *, resumed: bool) -> None:
    from fastft.artifacts import write_heldout
    from fastft.batch_search.search import search_batch
    from fastft.own_code import keep_code
    from fastft.resume import keep_start
    from fastft.same_data import guard_same_data

    run, recipe, data = around.run, checked.recipe, checked.data
    guard_same_data(run, data.audit.as_dict(), resumed=resumed)
    for change in keep_code(run, recipe):
        around.tell(change)
    write_heldout(run, data.evaluation_conversations)
    model, tokenizer, base = load(around, checked)
    with asking_for_no_more() if checked.device.is_cpu else nullcontext():
        checked = search_batch(checked, run, model, tokenizer, around.console)
        around.startup.done("batch search")
        keep_start(run, checked.arguments, base, resumed=resumed, recipe=recipe)
        _train_loaded(around, checked, model, tokenizer)


def _train_loaded(around: Around, checked: CheckReport, model: Any, tokenizer: Any) -> None:
    from fastft.artifacts import save_trained
    from fastft.evaluation import evaluate_model, evaluated_by, trainer_metrics
    from fastft.progress import working
    from fastft.rehearsal import rehearse
    from fastft.trainers import find_method

    run, console, startup = around.run, around.console, around.startup
    data, method = checked.data, find_method(checked.recipe.method)
    with working(console, "rehearsing the longest rows", aloud=True):
        arguments = rehearse(checked, run, model, tokenizer, around.tell)
    startup.done("rehearsal")
    evaluated = (checked.tokenizer, *evaluated_by(method, data, checked.recipe.evaluation))
    answering = "answering the held-out prompts before training"
    with working(console, answering, aloud=True), memory_for("to answer prompts"):
        before = evaluate_model(model, *evaluated)
    startup.done("evaluation")
    trainer, meter = make_trainer(around, checked, model, tokenizer, arguments)
    with working(console, "measuring the model before training"):
        before = replace(before, metrics=trainer_metrics(trainer, method))
    startup.done("trainer")
    bad = BadSteps(checked.recipe.bad_steps, data.train, run.directory / BAD_BATCHES, around.tell)
    bad.attach(trainer)
    _take_the_steps(around, trainer)
    with working(console, "answering them again", aloud=True):
        metrics = trainer_metrics(trainer, method)
        with backend.answering(trainer.model), memory_for("to answer prompts"):
            after = replace(evaluate_model(trainer.model, *evaluated), metrics=metrics)
    measured = {**meter.summary(), "startup": startup.as_dict(), "skipped_steps": bad.skipped}
    around.history.note("trained")
    save_trained(run, checked, trainer, before, after, measured, around.history.lines())
    console.print(report.evaluation(before, after, method.measures))
    console.print(report.speed(run.manifest()["training"], checked.plan))


def _take_the_steps(around: Around, trainer: Any) -> None:
    """Train to the end. Where memory runs out in a step, that is repeated from its start with less.

    As long as little was done all of it is done again: then the result is to the byte that of a run begun with less.
    """
    from fastft.resume import train_to_the_end

    run, checkpoint = around.run, whole_checkpoint(around.run.checkpoints)
    around.history.goes_on_from(step_of(checkpoint))
    start = StepStart(trainer, from_start=checkpoint is None)
    start.attach()
    try:
        train_to_the_end(trainer, run, checkpoint, around.stopping)
    except TrainingError as error:
        if not ran_out_of_memory(error):
            raise
        step, failed = trainer.state.global_step + 1, failed_in(error)
        hint = hint_of(failed, error.hint)
        give_back(error)
        less = take_less(run, step, failed)
        if less is None:
            raise too_little(f"in step {step}", hint) from None
        if start.worth_repeating_all:
            shutil.rmtree(run.checkpoints, ignore_errors=True)
        else:
            start.keep()
        let_go(trainer)
        reached = step_of(whole_checkpoint(run.checkpoints))
        raise _AgainError(f"memory ran out in step {step}; going on from step {reached} with {less}") from None
