"""How many sequences are computed at a time, and whether activations are kept for it: what is fastest of what fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastft.planning.memory import Checkpointing

# Below this many tokens a micro-batch, dequantising the frozen weights for it (12 ms for 8B on an H200, docs/plan.md)
# takes a fifth of the time of its matrix products at 790 TFLOP/s, and recomputing to make room starts to pay.
_TOO_FEW = 1536


@dataclass(frozen=True, slots=True)
class Room:
    """What a device has room for. `fits` says how many tokens a micro-batch can hold with activations kept so.

    `worth` is the number of tokens from which a larger micro-batch gains nothing; `ways` are the ways to keep
    activations that may be chosen, fastest first.
    """

    fits: Callable[[Checkpointing], int]
    worth: int
    ways: tuple[Checkpointing, ...]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Sequences at a time, micro-batches a step, how activations are kept, and how many fit so."""

    batch: int
    accumulation: int
    checkpointing: Checkpointing
    tokens: int  # it holds on average
    fitting: int  # sequences of the longest length that fit


def choose_micro_batch(
    room: Room, wanted: int, *, mean: float, longest: int, batch: int | None = None, accumulation: int | None = None
) -> MicroBatch:
    """The micro-batch of a step of about `wanted` sequences of `mean` tokens, none longer than `longest`.

    Activations are kept if a micro-batch worth the name fits with them, and recomputed otherwise. `batch` and
    `accumulation` are those the recipe gives, if it does.
    """
    chosen = None
    at_once = wanted if accumulation is None else max(1, round(wanted / accumulation))
    for way in room.ways:
        fitting = room.fits(way) // max(1, longest)
        size = batch or max(1, min(at_once, fitting, round(room.worth / max(1.0, mean))))
        micro_batches = accumulation or max(1, -(-wanted // size))
        if batch is None and accumulation is None:
            size = max(1, round(wanted / micro_batches))  # the micro-batches of a step are alike
        chosen = MicroBatch(size, micro_batches, way, round(size * mean), fitting)
        if fitting >= size and (fitting >= at_once or fitting * mean >= _TOO_FEW):
            break
    assert chosen is not None
    return chosen
