"""How examples will be packed: TRL's best-fit-decreasing packing, without running it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from fastft.data.conversation import Example

# TRL packs with datasets.map(batched=True), which hands it this many examples at a time.
_MAP_BATCH = 1000

_Bin = tuple[int, ...]

# Model types of transformers 5.17 in which packed documents see each other: restarting position ids reach neither the
# state that recurrent and convolution layers carry along, nor a mask that is made without them. Others build
# block-diagonal masks of them; tests/trainers/test_packing.py measures both kinds.
_CARRIES_STATE = frozenset((
    "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear", "lfm2", "lfm2_moe", "mamba",
    "mamba2", "minimax", "nemotron_h", "olmo_hybrid", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text",
    "qwen3_next", "qwen4_exp", "recurrent_gemma", "rwkv", "zamba", "zamba2",
))  # fmt: skip
_MASKS_WITHOUT_POSITIONS = frozenset(("afmoe", "biogpt", "bloom", "falcon", "gpt_oss", "mpt", "opt", "xglm"))


def why_not_packed(model_type: str) -> str | None:
    """Why examples can't be packed for a model of this type (`model_type` in its config.json), or None if they can.

    It holds for transformers' own attention, as on the CPU: a kernel for sequences of varying length may do better.
    """
    if model_type in _CARRIES_STATE:
        return f"{model_type} has layers that carry a state from one packed document into the next"
    if model_type in _MASKS_WITHOUT_POSITIONS:
        return f"transformers' {model_type} makes its attention mask without positions: packed documents see each other"
    return None


@dataclass(frozen=True, slots=True)
class Packing:
    """The packed sequences, in the order TRL makes them.

    `lengths` are their tokens; `documents` the examples in each, as places in the sequence that was packed, in the
    order in which they stand there. A label at the start of a document inside a sequence is ignored; Example's first
    label is -100 already, so packing loses no supervised token.
    """

    lengths: tuple[int, ...]
    documents: tuple[_Bin, ...]
    supervised: int
    max_length: int

    @property
    def sequences(self) -> int:
        return len(self.lengths)

    @property
    def efficiency(self) -> float:
        """Share of the positions of all sequences, each `max_length` long, that hold a token."""
        return sum(self.lengths) / (len(self.lengths) * self.max_length) if self.lengths else 0.0


def pack(examples: Iterable[Example], max_length: int) -> Packing:
    """What `trl.data_utils.pack_dataset(..., strategy="bfd")` will make of examples of at most `max_length` tokens.

    Reads the examples once, in order, and keeps only their lengths.
    """
    lengths: list[int] = []
    supervised = 0
    for example in examples:
        lengths.append(len(example.input_ids))
        supervised += example.supervised
    return pack_lengths(lengths, max_length, supervised)


def pack_lengths(lengths: Sequence[int], max_length: int, supervised: int = 0) -> Packing:
    """As `pack`, from the lengths alone; `supervised` is how many of their tokens are learned."""
    documents: list[_Bin] = []
    source = enumerate(lengths)
    while batch := list(islice(source, _MAP_BATCH)):
        documents += _best_fit(batch, max_length)
    filled = tuple(sum(lengths[index] for index in bin) for bin in documents)
    return Packing(filled, tuple(documents), supervised, max_length)


def wrap_lengths(lengths: Sequence[int], max_length: int, supervised: int = 0) -> Packing:
    """As `pack_lengths` for `strategy="wrapped"`: end to end, cut at every `max_length` tokens of a batch."""
    documents: list[_Bin] = []
    filled: list[int] = []
    source = enumerate(lengths)
    while batch := list(islice(source, _MAP_BATCH)):
        owners = [index for index, length in batch for _ in range(length)]
        packs = [owners[start : start + max_length] for start in range(0, len(owners), max_length)]
        documents += [tuple(dict.fromkeys(pack)) for pack in packs]
        filled += map(len, packs)
    return Packing(tuple(filled), tuple(documents), supervised, max_length)


def _best_fit(batch: Sequence[tuple[int, int]], capacity: int) -> Iterator[_Bin]:
    """Bins of the (index, length) pairs, longest first, each put where the least room remains.

    Equal lengths keep their order, and of bins with equal room the one that came to it first is filled: as in TRL.
    """
    rooms: list[tuple[int, int, int]] = []  # (room left, when it came to be, bin), sorted
    bins: list[list[int]] = []
    for order, (index, length) in enumerate(sorted(batch, key=lambda pair: -pair[1])):
        at = bisect_left(rooms, (length, -1, -1))
        if at < len(rooms):
            room, _, chosen = rooms.pop(at)
        else:
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(index)
        if room > length:
            insort(rooms, (room - length, order, chosen))
    return map(tuple, bins)
