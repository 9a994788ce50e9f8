from __future__ import annotations

import random
from itertools import pairwise

import pytest

from fastft.trainers.lengths import grouped_order, row_lengths


def _lengths(count: int) -> list[int]:
    chance = random.Random(0)
    return [max(8, min(2048, int(chance.lognormvariate(5.5, 0.9)))) for _ in range(count)]


def _useful(lengths: list[int], order: list[int], batch: int) -> float:
    batches = [[lengths[row] for row in order[at : at + batch]] for at in range(0, len(order), batch)]
    return sum(lengths) / sum(max(each) * len(each) for each in batches)


@pytest.mark.parametrize(
    ("count", "batch"), [(300, 4), (300, 8), (1001, 8), (1001, 16), (20_000, 2), (20_000, 16), (20_000, 32)]
)
def test_nine_tenths_of_what_is_fed_are_tokens(count: int, batch: int) -> None:
    lengths = _lengths(count)
    by_chance = random.Random(1).sample(range(count), count)
    assert _useful(lengths, grouped_order(lengths, batch, seed=3), batch) >= 0.9
    assert _useful(lengths, by_chance, batch) < 0.85


def test_every_row_comes_once_and_the_order_follows_the_seed() -> None:
    lengths = _lengths(997)
    order = grouped_order(lengths, 8, seed=3)
    assert sorted(order) == list(range(997))
    assert order == grouped_order(lengths, 8, seed=3)
    assert order != grouped_order(lengths, 8, seed=4)


def test_the_longest_row_comes_first_and_batches_are_not_sorted() -> None:
    lengths = _lengths(1000)
    order = grouped_order(lengths, 8, seed=3)
    assert max(lengths) in [lengths[row] for row in order[:8]]
    means = [sum(lengths[row] for row in order[at : at + 8]) for at in range(8, 400, 8)]
    falling = sum(a > b for a, b in pairwise(means)) / (len(means) - 1)
    assert 0.3 < falling < 0.7  # transformers' sampler would have 1.0 here


def test_few_rows() -> None:
    assert grouped_order([], 8, seed=0) == []
    assert sorted(grouped_order([5, 9, 1], 8, seed=0)) == [0, 1, 2]
    assert row_lengths([3, 8, 9, 2], 2) == [8, 9]
