"""The planned packing equals what TRL does."""

from __future__ import annotations

import random

import pytest

from fastft.data.conversation import IGNORE, Example
from fastft.data.packing import pack


def examples(lengths: list[int]) -> list[Example]:
    return [Example(list(range(n)), [IGNORE, *range(1, n)], f"row {i}") for i, n in enumerate(lengths)]


def test_best_fit_by_hand() -> None:
    packing = pack(examples([5, 7, 3, 2, 1, 9]), 10)
    assert packing.lengths == (10, 10, 7)
    assert packing.sequences == 3
    assert packing.supervised == 27 - 6
    assert packing.efficiency == 27 / 30
    assert pack([], 10).efficiency == 0.0


@pytest.mark.slow
def test_counts_equal_trls() -> None:
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    rng = random.Random(3)
    for count, capacity in ((1, 8), (50, 16), (700, 128), (2500, 512)):
        lengths = [min(capacity, 1 + int(rng.lognormvariate(3.5, 1.0))) for _ in range(count)]
        mine = pack(examples(lengths), capacity)
        rows = examples(lengths)
        data = Dataset.from_dict({"input_ids": [e.input_ids for e in rows], "labels": [e.labels for e in rows]})
        theirs = pack_dataset(data, capacity, strategy="bfd")
        assert list(mine.lengths) == [len(ids) for ids in theirs["input_ids"]]
        # TRL's collator ignores the first label of every document; ours are -100 there already.
        supervised = 0
        for labels, documents in zip(theirs["labels"], theirs["seq_lengths"], strict=True):
            starts = [sum(documents[:i]) for i in range(len(documents))]
            supervised += sum(label != IGNORE for at, label in enumerate(labels) if at not in starts)
        assert supervised == mine.supervised
