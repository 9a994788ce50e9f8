"""Some real steps with one micro-batch: TRL's trainer over a sample of the run's own data, with the clock beside it."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from fastft.recipe.trl_config import config_fields
from fastft.trainers import find_method, trainer_builder
from fastft.trainers.method import Job

if TYPE_CHECKING:
    from fastft.data.prepare import PreparedData
    from fastft.data.store import Conversations, Examples

TIMED_STEPS = 3
_SECONDS = 5.0  # after which no further step of one batch is timed
_UNTIMED = {
    "save_strategy": "no", "eval_strategy": "no", "eval_on_start": False, "load_best_model_at_end": False,
    "logging_strategy": "no", "report_to": "none", "warmup_steps": 0, "lr_scheduler_type": "constant",
    "dataloader_num_workers": 0, "dataloader_persistent_workers": False,
}  # fmt: skip
_LEFT_OUT = (
    "save_steps", "save_total_limit", "eval_steps", "logging_steps", "metric_for_best_model", "greater_is_better",
    "lr_scheduler_kwargs", "dataloader_prefetch_factor", "num_train_epochs",
)  # fmt: skip


class Clock:
    """Seconds and supervised tokens of each step but the first, which warms up. Ends the training in time."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.warm: float | None = None  # when the first step had ended
        self._tokens = 0
        self._begun = 0.0
        self._spent = 0.0

    def feed(self, inputs: Mapping[str, Any]) -> None:
        self._tokens += supervised_tokens(inputs)

    def begin(self) -> None:
        _finish_work()
        self._begun, self._tokens = time.perf_counter(), 0

    def end(self) -> bool:
        """Whether enough was seen."""
        _finish_work()
        now = time.perf_counter()
        if self.warm is None:
            self.warm = now
            return False
        self.rates.append(self._tokens / (now - self._begun))
        self._spent += now - self._begun
        return len(self.rates) >= TIMED_STEPS or self._spent >= _SECONDS

    @property
    def rate(self) -> float:
        """Supervised tokens a second, the median of the steps."""
        return median(self.rates)


def supervised_tokens(inputs: Mapping[str, Any]) -> int:
    """Tokens of a collated batch that the loss is about; of scores, all that aren't padding."""
    labels = [value for name, value in inputs.items() if name == "labels" or name.endswith("_labels")]
    masks = [value for name, value in inputs.items() if name == "completion_mask"]
    masks = masks or [value for name, value in inputs.items() if name == "attention_mask"]
    if labels:
        return sum(int((value != -100).sum()) for value in labels)
    return sum(int(value.sum()) for value in masks) or int(inputs["input_ids"].numel())


def _finish_work() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_batch(method: str, job: Job, batch: int, a_step: int) -> Clock:
    """The clock of some steps of `a_step` sequences in micro-batches of `batch`, on the job's model and data.

    Raises what the trainer raises, out-of-memory errors among it.
    """
    clock = Clock()
    with tempfile.TemporaryDirectory(prefix="fastft-batch-") as folder:
        arguments = untimed(method, job.arguments, batch, a_step, 1 + TIMED_STEPS)
        callbacks = [_callback(clock)]
        trial = replace(job, arguments=arguments, checkpoints=Path(folder) / "checkpoints", callbacks=callbacks)
        trainer = trainer_builder(method)(trial)
        in_order(trainer)
        step = trainer.training_step

        def counted(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            clock.feed(inputs)
            return step(model, inputs, *args, **kwargs)

        trainer.training_step = counted
        trainer.train()
    return clock


def untimed(method: str, given: Mapping[str, Any], batch: int, a_step: int, steps: int) -> dict[str, Any]:
    """The arguments of so many steps of `a_step` sequences each, with nothing around them."""
    known = config_fields(method)
    kept = {key: value for key, value in given.items() if key not in _LEFT_OUT}
    sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": a_step // batch}
    around = {key: value for key, value in _UNTIMED.items() if key in known}
    return {**kept, **around, **sizes, "max_steps": steps}


def _callback(clock: Clock) -> Any:
    from transformers import TrainerCallback

    class Timing(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            clock.begin()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if clock.end():
                control.should_training_stop = True

    return Timing()


def in_order(trainer: Any) -> None:
    """The longest first, as the sample has it, where rows would be drawn at random; a sampler by length has its way."""
    from torch.utils.data import RandomSampler, SequentialSampler

    chosen = trainer._get_train_sampler

    def ordered(*args: Any, **kwargs: Any) -> Any:
        sampler = chosen(*args, **kwargs)
        return SequentialSampler(trainer.train_dataset) if isinstance(sampler, RandomSampler) else sampler

    trainer._get_train_sampler = ordered


def sample(data: PreparedData, method: str, rows: int, longest: int) -> PreparedData:
    """`rows` rows of the data to try on: the `longest` longest ones first, then others drawn as they lie.

    A row is an example, or a pair of them. Nothing is held out.
    """
    width = find_method(method).sequences
    lengths = data.train.lengths()
    sizes = [sum(lengths[row * width : (row + 1) * width]) for row in range(len(lengths) // width)]
    return part_of(data, method, _chosen(sizes, rows, longest), ())


def part_of(data: PreparedData, method: str, rows: Sequence[int], held_out: Sequence[int]) -> PreparedData:
    """The data with these rows alone, in this order. A row is an example, or a pair of them."""
    width = find_method(method).sequences
    train, learned = _part(data.train, data.train_conversations, rows, width)
    evaluation, asked = _part(data.evaluation, data.evaluation_conversations, held_out, width)
    supervised = sum(example.supervised for example in train)
    part = replace(data.audit.train, supervised=supervised)
    return replace(
        data,
        train=train,
        train_conversations=learned,
        evaluation=evaluation,
        evaluation_conversations=asked,
        audit=replace(data.audit, train=part),
    )


def _part(
    examples: Examples, conversations: Conversations, rows: Sequence[int], width: int
) -> tuple[Examples, Conversations]:
    """Conversations are looked at only where there is one for each row."""
    import numpy as np

    from fastft.data.store import Conversations, Examples

    places = np.asarray([row * width + side for row in rows for side in range(width)], dtype=int)
    if len(conversations) * width == len(examples):
        conversations = Conversations(conversations.table, conversations.chosen[np.asarray(rows, dtype=int)])
    elif not rows:
        conversations = Conversations(conversations.table, conversations.chosen[:0])
    return Examples(examples.table, examples.chosen[places]), conversations


def _chosen(sizes: Sequence[int], rows: int, longest: int) -> list[int]:
    order = sorted(range(len(sizes)), key=lambda row: -sizes[row])
    first, rest = order[:longest], order[longest:]
    random.Random(0).shuffle(rest)
    return (first + rest)[:rows]
