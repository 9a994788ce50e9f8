"""Before the first step: one with the longest rows, and an evaluation of the longest ones, without a trace.

Memory that will run out does so now, where it costs seconds.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.batch_search.put_back import put_back, tidy
from fastft.batch_search.steps import in_order, part_of, untimed
from fastft.bounded import keep_bounded
from fastft.errors import TrainingError
from fastft.host_memory import refresh_limit
from fastft.out_of_memory import (
    What,
    evaluate_with_less,
    failed_in,
    give_back,
    hint_of,
    ran_out_of_memory,
    take_less,
    too_little,
)
from fastft.own_code import log_traceback
from fastft.resume import started_with
from fastft.trainers import find_method, trainer_builder
from fastft.trainers.groups import longest_answers, prompts_at_a_time
from fastft.trainers.lengths import row_lengths
from fastft.trainers.method import Job

if TYPE_CHECKING:
    from fastft.checking import CheckReport
    from fastft.run import Run

Tell = Callable[[str], None]
_NEVER = 1 << 30  # steps: the evaluation is asked for by itself


def rehearse(checked: CheckReport, run: Run, model: Any, tokenizer: Any, tell: Tell) -> dict[str, Any]:
    """The training arguments, with which a step of the longest rows and an evaluation of the longest ones ran.

    Where memory runs out, the micro-batch is halved, which is told and recorded in start.json. Where the model writes
    its rows itself, it answers the longest prompts as long as it may.

    Raises TooLittleMemoryError if nothing is left to halve.
    """
    arguments = started_with(run)
    if arguments.get("use_vllm"):  # whose memory is set apart beforehand
        return arguments
    refresh_limit()
    while (failed := _what_fails(checked, run, model, tokenizer, arguments, tell)) is not None:
        less = take_less(run, 0, failed)
        if less is None:
            raise too_little("when the longest rows were rehearsed", hint_of(failed))
        tell(f"memory ran out when the longest rows were rehearsed; training goes by {less}")
        arguments = started_with(run)
    return started_with(run)


def _what_fails(
    checked: CheckReport,
    run: Run,
    model: Any,
    tokenizer: Any,
    arguments: Mapping[str, Any],
    tell: Tell,
) -> What | None:
    """What memory ran out for, or None where all ran."""
    method, data = checked.recipe.method, checked.data
    rows, held_out = _longest(checked, arguments)
    job = Job(model, tokenizer, part_of(data, method, rows, held_out), arguments, Path(), (), checked.recipe.rewards)
    try:
        with put_back(model, weights=checked.recipe.lora is not None):
            _one_step(method, job, run, tell, learns=checked.recipe.lora is not None)
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            log_traceback(error)
            if isinstance(error, TrainingError) and not error.hint:  # of a reward
                error.hint = f"The traceback is in {run.log_path}."
            raise
        failed = failed_in(error)
        give_back(error)
    else:
        return None
    tidy()
    return failed


def _longest(checked: CheckReport, arguments: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """(rows that fill a micro-batch, held-out rows that fill one), the longest first. A row may be a pair."""
    width, data = find_method(checked.recipe.method).sequences, checked.data
    trained, held_out = (row_lengths(part.lengths(), width) for part in (data.train, data.evaluation))
    batch = int(arguments["per_device_train_batch_size"])
    evaluated = int(arguments.get("per_device_eval_batch_size") or 8)
    if find_method(checked.recipe.method).generates:
        each = int(arguments.get("num_generations_eval") or 1)
        return _first(trained, prompts_at_a_time(arguments)), _first(held_out, max(1, evaluated // each))
    if not arguments.get("packing"):
        return _first(trained, batch), _first(held_out, evaluated)
    rows = batch * 2 * math.ceil(len(trained) / max(1, checked.plan.sequences))  # several fill one sequence
    return [*_first(trained, rows), *_first(trained, -rows)][: len(trained)], _first(held_out, evaluated)


def _first(lengths: Sequence[int], most: int) -> list[int]:
    """So many of the longest rows; of the shortest, which fill gaps, where the number is negative."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return order[:most] if most >= 0 else order[max(most, -len(order) // 2) :]


def _one_step(method: str, job: Job, run: Run, tell: Tell, *, learns: bool) -> None:
    """One step and one evaluation. Without `learns` it ends before the optimizer, whose weights have no copy."""
    with tempfile.TemporaryDirectory(prefix="fastft-rehearsal-") as folder:
        batch = int(job.arguments["per_device_train_batch_size"])
        evaluates = {"eval_strategy": "steps", "eval_steps": _NEVER} if job.evaluates else {}
        arguments = untimed(method, job.arguments, batch, batch, 1) | evaluates
        if find_method(method).generates:
            arguments |= longest_answers(job.arguments)
        trainer = trainer_builder(method)(replace(job, arguments=arguments, checkpoints=Path(folder) / "checkpoints"))
        if arguments.get("packing"):  # only now it is known which sequences are the fullest
            filled = [len(ids) for ids in trainer.train_dataset["input_ids"]]
            trainer.train_dataset = trainer.train_dataset.select(_first(filled, batch))
        in_order(trainer)
        keep_bounded(trainer)
        if not learns:
            trainer.add_callback(_ending())
        try:
            trainer.train()
        except _RehearsedError:
            trainer.model.zero_grad()
        if trainer.eval_dataset is not None:
            evaluate_with_less(trainer, run, tell)
            trainer.evaluate()


class _RehearsedError(Exception):
    """The gradients were computed."""


def _ending() -> Any:
    from transformers import TrainerCallback

    class Ending(TrainerCallback):
        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
            raise _RehearsedError

    return Ending()
