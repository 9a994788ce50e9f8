"""The spine: a recipe becomes a run. Reads as the picture in docs/design.md, top to bottom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fastft import backend, report
from fastft.checking import CheckReport, check
from fastft.checkpoints import step_of, whole_checkpoint
from fastft.finite import FiniteGuard
from fastft.heartbeat import Heartbeat, alone_in_run
from fastft.out_of_memory import give_back, ran_out_of_memory, take_less
from fastft.quiet import library_output_to
from fastft.recipe.overrides import output_dir_override
from fastft.resume import run_to_resume, same_data, unfinished_twin
from fastft.run import Run
from fastft.startup import Startup, first_step_callback
from fastft.stopping import Stopping, stopping_on_signals

if TYPE_CHECKING:
    from fastft.base_identity import BaseIdentity
    from fastft.recipe.schema import Recipe
    from fastft.throughput import Meter


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
    console, startup = console or Console(highlight=False), startup or Startup()
    overrides = (*overrides, *output_dir_override(output_dir))
    resumed = run_to_resume(source, overrides) if resume else None
    twin = unfinished_twin(source, overrides) if resume is None else None
    checked = check(resumed.recipe_path if resumed else source, () if resumed else overrides)
    if twin is not None and same_data(twin, checked.data.audit.as_dict()):
        resumed = twin
    elif twin is not None:
        console.print(f"! {twin.directory} is unfinished and of other data; a new run begins", style="yellow")
    startup.done("check")
    run = resumed or Run.create(Path(checked.recipe.output_dir), checked.recipe.to_yaml())
    console.print(report.opening(checked, run, resumed=resumed is not None))
    exports = checked.recipe.export.formats
    with alone_in_run(run.directory) as heartbeat:
        if run.finished:
            console.print("The training of this run is finished." + (" Now its exports." if exports else ""))
        else:
            with library_output_to(run.log_path, console) as user, stopping_on_signals(user) as stopping:
                around = _Around(run, user, startup, stopping, heartbeat)
                _train_as_memory_allows(around, checked, resumed is not None)
        if exports:
            heartbeat.beat("exporting")
            with stopping_on_signals(console):
                run.export(console=console)
    console.print(report.closing(run.directory))
    return run


@dataclass(frozen=True, slots=True)
class _Around:
    """What a training has around it: where it goes, what it says, its clock, and what may end it."""

    run: Run
    console: Console
    startup: Startup
    stopping: Stopping
    heartbeat: Heartbeat


def _train_as_memory_allows(around: _Around, checked: CheckReport, resumed: bool) -> None:
    """Train; each time memory runs out go on from the last checkpoint with half the micro-batch, which is recorded."""
    run = around.run
    while True:
        try:
            _train(around, checked, resumed=resumed)
            return
        except (RuntimeError, MemoryError) as error:
            reached = whole_checkpoint(run.checkpoints)
            less = take_less(run, step_of(reached)) if ran_out_of_memory(error) else None
            if less is None:
                raise
        around.console.print(f"! memory ran out; going on from step {step_of(reached)} with {less}", style="yellow")
        give_back()
        resumed = True


def _train(around: _Around, checked: CheckReport, *, resumed: bool) -> None:
    from fastft.artifacts import save_trained, write_heldout
    from fastft.batch_search.search import search_batch
    from fastft.evaluation import evaluate_model, evaluated_by, trainer_metrics
    from fastft.progress import working
    from fastft.resume import find_checkpoint, guard_same_data, keep_start, train_to_the_end
    from fastft.trainers import find_method

    run, console, startup = around.run, around.console, around.startup
    recipe, data, method = checked.recipe, checked.data, find_method(checked.recipe.method)
    guard_same_data(run, data.audit.as_dict(), resumed=resumed)
    write_heldout(run, data.evaluation_conversations)
    model, tokenizer, base = _load(around, checked)
    checked = search_batch(checked, run, model, tokenizer, console)
    startup.done("batch search")
    arguments = keep_start(run, checked.arguments, base, resumed=resumed)
    evaluated = (checked.tokenizer, *evaluated_by(method, data, recipe.evaluation))
    with working(console, "answering the held-out prompts before training"):
        before = evaluate_model(model, *evaluated)
    startup.done("evaluation")
    trainer, meter = _make_trainer(around, checked, model, tokenizer, arguments)
    with working(console, "measuring the model before training"):
        before = replace(before, metrics=trainer_metrics(trainer, method))
    startup.done("trainer")
    train_to_the_end(trainer, run, find_checkpoint(run, console), around.stopping)
    with working(console, "answering them again"):
        metrics = trainer_metrics(trainer, method)
        with backend.answering(trainer.model):
            after = replace(evaluate_model(trainer.model, *evaluated), metrics=metrics)
    measured = {**meter.summary(), "startup": startup.as_dict()}
    save_trained(run, checked, trainer, before, after, measured)
    console.print(report.evaluation(before, after, method.measures))
    console.print(report.speed(run.manifest()["training"], checked.plan))


def _load(around: _Around, checked: CheckReport) -> tuple[Any, Any, BaseIdentity]:
    """(model, tokenizer, what the base is), and what can only be tried with them: the exports' converter."""
    from fastft.exporters.gguf import rehearse
    from fastft.lora_start import keep_start_of_lora
    from fastft.model import identify_base, load_model
    from fastft.model_files import resolve_model
    from fastft.planning.work import checkpointing_of
    from fastft.progress import working
    from fastft.resume import started_with
    from fastft.stages import prepare_stage
    from fastft.trainers import find_method

    recipe, run, begun = checked.recipe, around.run, started_with(around.run)
    prepare_stage(recipe.model.model_name, around.console)
    with working(around.console, "importing Unsloth"):
        backend.import_unsloth()
    around.startup.done("imports")
    with working(around.console, "loading the model"):
        model, tokenizer = load_model(
            recipe.model,
            recipe.lora,
            classifies=find_method(recipe.method).classifies,
            checkpointing=checkpointing_of(recipe, begun) if begun else checked.checkpointing,
        )
        base = identify_base(model, recipe.model, recipe.lora)
        keep_start_of_lora(model, recipe.lora, run.initial_adapter)
        if recipe.export.needs_llama_cpp:
            folder = resolve_model(recipe.model.model_name, recipe.model.revision, weights=False)
            rehearse(folder, checked.tokenizer.folder, checked.tokenizer.chat_template)
    around.startup.done("loading")
    tokenizer.chat_template = checked.tokenizer.chat_template
    return model, tokenizer, base


def _make_trainer(
    around: _Around, checked: CheckReport, model: Any, tokenizer: Any, arguments: Mapping[str, Any]
) -> tuple[Any, Meter]:
    """The method's trainer with all that watches it, and the meter of its steps."""
    from fastft.fastpath.audit import watch_fast_path
    from fastft.progress import progress_callback
    from fastft.throughput import meter_for
    from fastft.trainers import find_method, trainer_builder
    from fastft.trainers.comforts import add_comforts
    from fastft.trainers.method import Job

    run, recipe, method = around.run, checked.recipe, find_method(checked.recipe.method)
    planned = sum(checked.plan.step_seconds) / 2 if checked.plan.step_seconds else None
    callbacks = [progress_callback(around.console, run.metrics_path, method.displayed, planned)]
    job = Job(model, tokenizer, checked.data, arguments, run.checkpoints, callbacks, recipe.rewards)
    trainer = trainer_builder(recipe.method)(job)
    meter = meter_for(checked, trainer.model, arguments)
    meter.attach(trainer)
    trainer.add_callback(first_step_callback(around.startup))
    add_comforts(trainer, recipe, run, checked.tokenizer, around.console)
    watch_fast_path(trainer, recipe, arguments, run, around.console)
    trainer.add_callback(around.heartbeat.callback())
    FiniteGuard(checked.data.train, run.directory / "bad_batches").attach(trainer)
    return trainer, meter
