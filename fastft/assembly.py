"""What a training is put together of: its surroundings, the model, and the trainer with all that watches it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fastft import backend
from fastft.checking import CheckReport
from fastft.heartbeat import Heartbeat
from fastft.history import History
from fastft.host_memory import loading_from, refreshing_callback
from fastft.out_of_memory import evaluate_with_less, memory_for
from fastft.run import Run
from fastft.startup import Startup, first_step_callback
from fastft.stopping import Stopping, spare_workers

if TYPE_CHECKING:
    from fastft.base_identity import BaseIdentity
    from fastft.throughput import Meter


@dataclass(frozen=True, slots=True)
class Around:
    """What a training has around it: where it goes, what it says, its clock, and what may end it."""

    run: Run
    console: Console
    startup: Startup
    stopping: Stopping
    heartbeat: Heartbeat
    history: History

    def tell(self, what: str) -> None:
        tell_on(self.console, what)


def tell_on(console: Console, what: str) -> None:
    """One line that should not be overlooked."""
    console.print(f"! {what}", style="yellow", markup=False)


def load(around: Around, checked: CheckReport) -> tuple[Any, Any, BaseIdentity]:
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
    with working(around.console, "importing Unsloth", aloud=True):
        backend.import_unsloth()
    around.startup.done("imports")
    folder = resolve_model(recipe.model.model_name, recipe.model.revision, weights=False)
    with working(around.console, "loading the model", aloud=True):
        limited = loading_from(folder) if checked.device.is_cpu else nullcontext()
        with limited, memory_for("to load the model"):
            model, tokenizer = load_model(
                recipe.model,
                recipe.lora,
                classifies=find_method(recipe.method).classifies,
                checkpointing=checkpointing_of(recipe, begun) if begun else checked.checkpointing,
            )
        base = identify_base(model, recipe.model, recipe.lora)
        keep_start_of_lora(model, recipe.lora, run.initial_adapter)
        if recipe.export.needs_llama_cpp:
            rehearse(folder, checked.tokenizer.folder, checked.tokenizer.chat_template)
    around.startup.done("loading")
    tokenizer.chat_template = checked.tokenizer.chat_template
    return model, tokenizer, base


def make_trainer(
    around: Around, checked: CheckReport, model: Any, tokenizer: Any, arguments: Mapping[str, Any]
) -> tuple[Any, Meter]:
    """The method's trainer with all that watches it, and the meter of its steps."""
    from fastft.bounded import keep_bounded
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
    keep_bounded(trainer)
    spare_workers(trainer)
    meter = meter_for(checked, trainer.model, arguments)
    meter.attach(trainer)
    trainer.add_callback(first_step_callback(around.startup))
    add_comforts(trainer, recipe, run, checked.tokenizer, around.console)
    watch_fast_path(trainer, recipe, arguments, run, around.console)
    trainer.add_callback(around.heartbeat.callback())
    if checked.device.is_cpu:
        trainer.add_callback(refreshing_callback())
    evaluate_with_less(trainer, run, around.tell)
    return trainer, meter
