"""How examples will be packed: the counts of TRL's best-fit-decreasing packing, without running it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from fastft.data.conversation import Example

# TRL packs with datasets.map(batched=True), which hands it this many examples at a time.
_MAP_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Packing:
    """`lengths` of the packed sequences in tokens, in the order TRL makes them.

    A label at the start of a document inside a sequence is ignored; Example's first label is -100 already, so
    packing loses no supervised token.
    """

    lengths: tuple[int, ...]
    supervised: int
    max_length: int

    @property
    def sequences(self) -> int:
        return len(self.lengths)

    @property
    def efficiency(self) -> float:
        """Share of the positions of all sequences, each `max_length` long, that hold a token."""
        return sum(self.lengths) / (len(self.lengths) * self.max_length) if self.lengths else 0.0


def pack(examples: Sequence[Example], max_length: int) -> Packing:
    """What `trl.data_utils.pack_dataset(..., strategy="bfd")` will make of examples of at most `max_length` tokens."""
    lengths: list[int] = []
    for start in range(0, len(examples), _MAP_BATCH):
        batch = [len(example.input_ids) for example in examples[start : start + _MAP_BATCH]]
        lengths += _best_fit(sorted(batch, reverse=True), max_length)
    return Packing(tuple(lengths), sum(example.supervised for example in examples), max_length)


def _best_fit(lengths: Sequence[int], capacity: int) -> list[int]:
    """Fill levels of the bins, each document put where the least room remains. `lengths` must be decreasing."""
    rooms: list[tuple[int, int, int]] = []  # (room left, when it came to be, bin), sorted: equal rooms, oldest first
    filled: list[int] = []
    for order, length in enumerate(lengths):
        at = bisect_left(rooms, (length, -1, -1))
        if at < len(rooms):
            room, _, index = rooms.pop(at)
        else:
            room, index = capacity, len(filled)
            filled.append(0)
        filled[index] += length
        if room > length:
            insort(rooms, (room - length, order, index))
    return filled
