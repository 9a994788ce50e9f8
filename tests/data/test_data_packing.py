"""The planned packing equals what TRL does."""

from __future__ import annotations

import random

import pytest

from fastft.data.conversation import IGNORE, Example
from fastft.data.packing import pack, pack_lengths


def examples(lengths: list[int]) -> list[Example]:
    """Every token names its row, so that a packed sequence tells which rows are in it."""
    return [Example([i] * n, [IGNORE, *[i] * (n - 1)], f"row {i}") for i, n in enumerate(lengths)]


def log_normal(seed: int, count: int, capacity: int) -> list[int]:
    """Lengths of chat rows: half below 300 tokens, one in 40 above 2048 and cut there."""
    rng = random.Random(seed)
    return [min(capacity, max(1, round(rng.lognormvariate(5.7, 1.0)))) for _ in range(count)]


def test_best_fit_by_hand() -> None:
    packing = pack(examples([5, 7, 3, 2, 1, 9]), 10)
    assert packing.lengths == (10, 10, 7)
    assert packing.documents == ((5, 4), (1, 2), (0, 3))
    assert packing.sequences == 3
    assert packing.supervised == 27 - 6
    assert packing.efficiency == 27 / 30
    assert pack([], 10).efficiency == 0.0
    assert pack(iter(examples([4, 4])), 10).documents == ((0, 1),)


def test_every_document_is_packed_once_and_batches_stay_apart() -> None:
    lengths = log_normal(0, 2500, 512)
    packing = pack_lengths(lengths, 512)
    assert sorted(index for bin in packing.documents for index in bin) == list(range(2500))
    assert all(len({index // 1000 for index in bin}) == 1 for bin in packing.documents)
    assert sum(packing.lengths) == sum(lengths)
    assert max(packing.lengths) <= 512


@pytest.mark.parametrize("seed", range(5))
def test_little_room_is_left_on_log_normal_lengths(seed: int) -> None:
    assert pack_lengths(log_normal(seed, 5000, 2048), 2048).efficiency >= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "count", "capacity"), [
    (1, 1, 8), (2, 50, 16), (3, 700, 128), (4, 2500, 512), (5, 3000, 2048), (6, 3000, 2048),
])  # fmt: skip
def test_sequences_are_trls_own(seed: int, count: int, capacity: int) -> None:
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    rows = examples(log_normal(seed, count, capacity))
    mine = pack(rows, capacity)
    data = Dataset.from_dict({"input_ids": [e.input_ids for e in rows], "labels": [e.labels for e in rows]})
    theirs = pack_dataset(data, capacity, strategy="bfd")
    assert list(mine.lengths) == [len(ids) for ids in theirs["input_ids"]]
    assert [list(bin) for bin in mine.documents] == [list(dict.fromkeys(ids)) for ids in theirs["input_ids"]]
    # TRL's collator ignores the first label of every document; ours are -100 there already.
    supervised = 0
    for labels, documents in zip(theirs["labels"], theirs["seq_lengths"], strict=True):
        starts = {sum(documents[:i]) for i in range(len(documents))}
        supervised += sum(label != IGNORE for at, label in enumerate(labels) if at not in starts)
    assert supervised == mine.supervised
