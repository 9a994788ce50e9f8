"""How long a training takes, as a range: operations by the device's rate, and what each micro-batch costs besides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastft.flops import step_cost
from fastft.planning import constants as c
from fastft.planning.cards import Card
from fastft.planning.memory import Checkpointing, bytes_a_weight, weight_bytes
from fastft.planning.sizes import Shape
from fastft.planning.work import Work

if TYPE_CHECKING:
    from fastft.recipe.schema import Recipe

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of the whole run, each as (fewest, most)."""

    training: Range
    evaluation: Range
    step: Range

    @property
    def total(self) -> Range:
        return (self.training[0] + self.evaluation[0], self.training[1] + self.evaluation[1])


def plan_seconds(
    shape: Shape,
    recipe: Recipe,
    work: Work,
    arguments: Mapping[str, Any],
    card: Card,
    *,
    steps: int,
    epochs: float,
    passes: float,
    checkpointing: Checkpointing,
) -> Seconds | None:
    """The range of seconds, or None for a device of which only the memory is known. The data is fed `passes` times."""
    rate = rates(card, shape)
    if rate is None:
        return None
    micro_batches = steps * int(arguments["gradient_accumulation_steps"])
    operations = step_operations(shape, recipe, work, checkpointing) * _fed(work, arguments, passes)
    each = micro_batch_seconds(shape, recipe, card, checkpointing)
    written = _writing(shape, recipe, work, arguments, card, steps)
    training = _each(lambda end: operations / rate[end] + micro_batches * each[1 - end] + written[1 - end])
    evaluation = _evaluating(shape, recipe, work, card, rate, _evaluations(arguments, steps, epochs))
    return Seconds(training, evaluation, (training[0] / steps, training[1] / steps))


def rates(card: Card, shape: Shape) -> Range | None:
    """Operations a second that training may reach: (least, most)."""
    if card.is_cpu:
        return (c.CPU_OPERATIONS_A_THREAD[0] * card.threads, c.CPU_OPERATIONS_A_THREAD[1] * card.threads)
    if not card.tflops:
        return None
    narrow = min(1.0, shape.hidden / c.FULL_RATE_HIDDEN)  # narrow matrices don't fill a large card
    least, most = c.GPU_SHARE_OF_RATE
    return (card.tflops * 1e12 * least * narrow, card.tflops * 1e12 * most * math.sqrt(narrow))


def step_operations(shape: Shape, recipe: Recipe, work: Work, checkpointing: Checkpointing) -> float:
    """Operations of one pass over the data: see fastft/flops.py for the formula."""
    cost = step_cost(
        shape,
        frozen=recipe.lora is not None,
        recomputed=1.0 if checkpointing else 0.0,
        reference=work.reference,
        scores=work.loss == "score",
    )
    return cost.of(work.tokens, work.pairs)


def micro_batch_seconds(shape: Shape, recipe: Recipe, card: Card, checkpointing: Checkpointing) -> Range:
    """What a micro-batch costs whatever its size: dequantised weights (read as they are, written in 16 bits, in each
    pass), and the host that starts the kernels."""
    host = c.CPU_SECONDS_A_LAYER if card.is_cpu else c.HOST_SECONDS_A_LAYER
    dequantised = 0.0
    stored = bytes_a_weight(shape, recipe.model)
    if stored < 2 and card.bandwidth:
        passes = 3 if checkpointing else 2
        dequantised = passes * (stored + 2) * shape.linear / (c.SHARE_OF_BANDWIDTH * card.bandwidth)
    return (dequantised + host[0] * shape.layers, dequantised + host[1] * shape.layers)


def _fed(work: Work, arguments: Mapping[str, Any], passes: float) -> float:
    """How often the data's operations are done; with answers to each prompt, once for each."""
    if not work.written:
        return passes
    whole = (work.tokens / max(1, work.documents) + work.written) / max(1.0, work.tokens / max(1, work.documents))
    return passes * int(arguments["num_generations"]) * int(arguments.get("num_iterations") or 1) * whole


def _writing(shape: Shape, recipe: Recipe, work: Work, arguments: Mapping[str, Any], card: Card, steps: int) -> Range:
    """Answers that are rewarded: a token of all that are written at a time reads the weights once."""
    if not work.written:
        return (0.0, 0.0)
    from fastft.trainers.groups import generation_batch

    per_step = int(arguments["per_device_train_batch_size"]) * int(arguments["gradient_accumulation_steps"])
    rounds = steps * per_step / max(1, generation_batch(arguments) * int(arguments.get("num_iterations") or 1))
    token = _token_seconds(shape, recipe, card)
    return (rounds * work.written * token[0] * c.ANSWERS_END_EARLY, rounds * work.written * token[1])


def _token_seconds(shape: Shape, recipe: Recipe, card: Card) -> Range:
    """Seconds to write one token of each answer of a batch."""
    host = c.CPU_SECONDS_A_LAYER if card.is_cpu else c.HOST_SECONDS_A_LAYER
    read = weight_bytes(shape, recipe.model) / (c.SHARE_OF_BANDWIDTH * card.bandwidth)
    return (read + host[0] * shape.layers / 2, 2 * read + host[1] * shape.layers)


def _evaluating(shape: Shape, recipe: Recipe, work: Work, card: Card, rate: Range, between: int) -> Range:
    """Loss and answers before and after, and the loss `between` times more."""
    forward = 2 * (shape.computed + shape.head) * work.held_out
    times = 2 + between
    batches = math.ceil(work.answers / 32)
    token = _token_seconds(shape, recipe, card)
    wait = batches * work.answer_tokens * 2
    return (
        times * forward / rate[1] + wait * token[0] * c.ANSWERS_END_EARLY,
        times * forward / rate[0] + wait * token[1],
    )


def _evaluations(arguments: Mapping[str, Any], steps: int, epochs: float) -> int:
    """How often `eval_strategy` has the loss evaluated while training."""
    strategy = str(arguments.get("eval_strategy", "no"))
    if strategy == "steps":
        every = float(arguments.get("eval_steps") or arguments.get("logging_steps") or 500)
        return int(steps // max(1, every if every >= 1 else every * steps))
    return math.ceil(epochs) if strategy == "epoch" else 0


def _each(of: Any) -> Range:
    """(fewest, most): the fewest seconds come of the highest rate, which stands at index 1."""
    return (of(1), of(0))
