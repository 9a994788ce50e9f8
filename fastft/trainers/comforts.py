"""What makes any method's training more comfortable: early end, own callbacks, rates by weight, samples, trackers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fastft import backend
from fastft.errors import TrainingError
from fastft.lines import append_lines, keep_until
from fastft.own_code import described, log_traceback
from fastft.trackers import recipe_callback
from fastft.trainers.measuring import aside

if TYPE_CHECKING:
    from fastft.data.tokenizer import ChatTokenizer
    from fastft.recipe.schema import EvaluationSection, Recipe
    from fastft.run import Run


def add_comforts(trainer: Any, recipe: Recipe, run: Run, tokenizer: ChatTokenizer, console: Console) -> None:
    """Give the trainer what the recipe asks for beside its method.

    Raises TrainingError if a callback can't be loaded or fails, or a pattern of learning_rates fits nothing that is
    trained.
    """
    from transformers import EarlyStoppingCallback
    from transformers.trainer_callback import ExportableState

    for callback in own_callbacks(recipe.callbacks):
        trainer.add_callback(callback)
        _tell_of_the_trainer(callback, trainer, run)
        if isinstance(callback, ExportableState):
            trainer.args.restore_callback_states_from_checkpoint = True  # what it says is its state, when resuming
    if recipe.early_stopping is not None:
        stopping = recipe.early_stopping
        trainer.add_callback(EarlyStoppingCallback(stopping.patience, stopping.threshold))
        trainer.args.restore_callback_states_from_checkpoint = True  # its count of bad evaluations, when resuming
    if recipe.learning_rates:
        separate_rates(trainer, recipe.learning_rates)
    if recipe.evaluation.sample_steps is not None:
        trainer.add_callback(sample_callback(recipe.evaluation, run, tokenizer, console))
    if trainer.args.report_to:
        trainer.add_callback(recipe_callback(trainer, run))


def _tell_of_the_trainer(callback: Any, trainer: Any, run: Run) -> None:
    try:
        callback.on_init_end(trainer.args, trainer.state, trainer.control)
    except Exception as error:  # whatever a person's class may raise
        log_traceback(error)
        hint = f"The traceback is in {run.log_path}."
        raise TrainingError(f"a callback of the recipe failed: {described(error, run)}", hint=hint) from error


def own_callbacks(named: Sequence[str]) -> list[Any]:
    """The TrainerCallbacks of "/path/file.py:Name", each an instance. Raises TrainingError for anything else."""
    from transformers import TrainerCallback

    from fastft.rewards.function_files import load_name

    callbacks = []
    for name in named:
        found = load_name(name)
        if isinstance(found, type) and issubclass(found, TrainerCallback):
            try:
                found = found()
            except Exception as error:  # whatever a person's class may raise
                raise TrainingError(f"{name} can't be made: {type(error).__name__}: {error}") from error
        if not isinstance(found, TrainerCallback):
            kind = found.__name__ if isinstance(found, type) else type(found).__name__
            raise TrainingError(
                f"{name} is {kind}, which is no TrainerCallback",
                hint="Derive it from transformers.TrainerCallback.",
            )
        callbacks.append(found)
    return callbacks


def separate_rates(trainer: Any, learning_rates: Mapping[str, float]) -> None:
    """Put what a pattern fits into groups of the trainer's own optimizer that have the pattern's rate.

    Everything else of a group stays: weight decay, betas, and the schedule that multiplies its rate. The groups follow
    from the recipe and the model alone, so that a resumed run finds its moments where it left them.
    """
    wanted = _rates_by_parameter(trainer.model, learning_rates)
    optimizer = trainer.create_optimizer()
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        options = {key: value for key, value in group.items() if key != "params"}
        rates = list(dict.fromkeys(wanted.get(id(p), group["lr"]) for p in group["params"]))
        for rate in sorted(rates, key=lambda rate: rate != group["lr"]):
            chosen = [p for p in group["params"] if wanted.get(id(p), group["lr"]) == rate]
            groups.append({**options, "params": chosen, "lr": rate})
    optimizer.param_groups.clear()
    for group in groups:
        optimizer.add_param_group(group)


def _rates_by_parameter(model: Any, learning_rates: Mapping[str, float]) -> dict[int, float]:
    """id of a trained parameter -> its rate, where a pattern fits its name."""
    named = dict(backend.trainable_parameters(model))
    rates: dict[int, float] = {}
    for pattern, rate in learning_rates.items():
        fitting = [name for name in named if re.search(pattern, name)]
        if not fitting:
            last = list(named)[-1] if named else "nothing"
            raise TrainingError(
                f"learning_rates: {pattern!r} fits no weight that is trained; their names are like {last}",
                hint="Embeddings and the head are trained if lora.modules_to_save has embed_tokens and lm_head.",
            )
        for name in fitting:
            rates.setdefault(id(named[name]), rate)
    return rates


def sample_callback(section: EvaluationSection, run: Run, tokenizer: ChatTokenizer, console: Console) -> Any:
    """A TrainerCallback that answers the recipe's prompts every `sample_steps`, into the run's samples.jsonl.

    The answers are greedy and leave no trace in the training.
    """
    from transformers import TrainerCallback

    from fastft.evaluation import answer

    path, every = run.directory / "samples.jsonl", section.sample_steps or 1
    ids = [tokenizer.prompt_ids([{"role": "user", "content": prompt}]) for prompt in section.prompts]

    class SampleCallback(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            """Steps after the checkpoint that a run goes on from will be taken again."""
            keep_until(path, state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if state.global_step % every:
                return
            model = kwargs["model"]
            with aside(model), backend.answering(model):
                texts = answer(model, tokenizer, ids, section.max_new_tokens)
            answers = zip(section.prompts, texts, strict=True)
            append_lines(path, *({"step": state.global_step, "prompt": p, "answer": text} for p, text in answers))
            turn = state.global_step // every % len(ids)
            shown = f"  step {state.global_step} › {section.prompts[turn]} … {' '.join(texts[turn].split())[:200]}"
            console.print(shown, style="dim", markup=False, highlight=False)

    return SampleCallback()
