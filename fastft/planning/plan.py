"""What a recipe will take on a device: parameters, steps, memory by part, seconds, disk. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from fastft.planning.cards import Card
from fastft.planning.disk import plan_disk
from fastft.planning.memory import Memory, largest_in_flight, plan_memory, state_bytes, trained_parameters
from fastft.planning.time import Seconds, plan_seconds
from fastft.planning.work import Work, checkpointing_of
from fastft.trainers.defaults import steps_of
from fastft.trainers.epochs import epochs_of, passes

if TYPE_CHECKING:
    from fastft.planning.shape import Shape
    from fastft.recipe.schema import Recipe


@dataclass(frozen=True, slots=True)
class Plan:
    """Counts, steps, bytes and seconds of a run. `memory` is the estimated peak on the device that trains.

    Where the model's sizes can't be read from its configuration, `parts` is None and what follows from them is 0 or
    None. `largest_batch` is the most sequences of the longest length a micro-batch can hold, `longest_sequence` the
    most tokens one sequence can have at a batch size of 1; 0 where not even that fits.
    """

    parameters: int
    trainable: int
    tokens: int
    sequences: int
    steps: int
    memory: int
    packing_efficiency: float | None = None  # share of the packs' positions that hold a token
    epochs: float = 0.0
    trained_tokens: int = 0  # of all steps; in `tokens` a row counts once
    parts: Memory | None = None
    largest_batch: int | None = None
    longest_sequence: int | None = None
    seconds: Seconds | None = None
    disk: Mapping[str, int] = field(default_factory=dict)
    work: Work | None = field(default=None, repr=False)

    @property
    def step_seconds(self) -> tuple[float, float] | None:
        return self.seconds.step if self.seconds else None

    @property
    def disk_total(self) -> int:
        return sum(self.disk.values())

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        del values["work"]  # the data's own counts, which the audit has
        values["parts"] = self.parts.as_dict() if self.parts else None
        values["seconds"] = asdict(self.seconds) | {"total": self.seconds.total} if self.seconds else None
        return values | {"disk": dict(self.disk), "disk_total": self.disk_total}


def make_plan(shape: Shape | None, recipe: Recipe, arguments: Mapping[str, Any], work: Work, card: Card) -> Plan:
    """The plan of a recipe whose arguments are complete, on a card (or the CPU)."""
    steps = steps_of({"num_train_epochs": 1, **arguments}, work.sequences)
    epochs, fed = epochs_of(arguments, work.sequences, steps), passes(arguments, work.sequences, steps)
    trained = round(work.tokens * fed)
    if shape is None:
        return Plan(0, 0, work.tokens, work.sequences, steps, 0, work.packing_efficiency, epochs, trained, work=work)
    trainable = trained_parameters(shape, recipe.lora)
    memory = memory_of(shape, recipe, arguments, work, card)
    states = state_bytes(shape, recipe.lora, str(arguments["optim"]), on_cpu=card.is_cpu)
    largest, longest = _limits(shape, recipe, arguments, work, card)
    checkpointing = checkpointing_of(recipe, arguments)
    return Plan(
        parameters=shape.parameters,
        trainable=trainable,
        tokens=work.tokens,
        sequences=work.sequences,
        steps=steps,
        memory=memory.total,
        packing_efficiency=work.packing_efficiency,
        epochs=epochs,
        trained_tokens=trained,
        parts=memory,
        largest_batch=largest,
        longest_sequence=longest,
        seconds=plan_seconds(
            shape, recipe, work, arguments, card, steps=steps, epochs=epochs, passes=fed, checkpointing=checkpointing
        ),
        disk=plan_disk(
            recipe,
            arguments,
            parameters=shape.parameters,
            trainable=trainable,
            states=states,
            steps=steps,
            epochs=epochs,
        ),
        work=work,
    )


def memory_of(
    shape: Shape,
    recipe: Recipe,
    arguments: Mapping[str, Any],
    work: Work,
    card: Card,
    *,
    in_flight: int | None = None,
    longest: int | None = None,
) -> Memory:
    """The memory of a recipe's step; `in_flight` and `longest` tokens are the recipe's unless they are given."""
    longest = longest or work.longest
    batch = int(arguments["per_device_train_batch_size"])
    tokens = in_flight if in_flight is not None else work.in_flight(batch)
    return plan_memory(
        shape,
        recipe.model,
        recipe.lora,
        optim=str(arguments["optim"]),
        in_flight=tokens,
        longest=longest,
        checkpointing=checkpointing_of(recipe, arguments),
        on_cpu=card.is_cpu,
        loss=work.loss,
        cached=work.cached(arguments),
        evaluated=work.evaluated_at_once,
        learned=round(tokens * work.learned_share),
        reference=work.reference,
    )


def _limits(shape: Shape, recipe: Recipe, arguments: Mapping[str, Any], work: Work, card: Card) -> tuple[int, int]:
    """(sequences of the longest length a micro-batch can hold, tokens of the longest sequence at a batch size of 1)."""
    each = max(1, work.longest * work.width)
    sequences = largest_in_flight(
        lambda count: memory_of(shape, recipe, arguments, work, card, in_flight=count * each), card.memory
    )
    tokens = largest_in_flight(
        lambda length: memory_of(
            shape, recipe, arguments, work, card, in_flight=length * work.width, longest=max(1, length)
        ),
        card.memory,
    )
    return sequences, tokens
