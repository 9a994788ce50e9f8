"""Exact choices for rooms made by hand: what fits is given, what is chosen follows."""

from __future__ import annotations

from fastft.trainers.micro_batch import MicroBatch, Room, choose_micro_batch


def _room(kept: int, recomputed: int, worth: int = 8192) -> Room:
    return Room(lambda way: recomputed if way else kept, worth, (False, "unsloth"))


def test_activations_are_kept_where_the_whole_step_fits() -> None:
    chosen = choose_micro_batch(_room(40_000, 400_000), 16, mean=250, longest=2048)
    assert chosen == MicroBatch(16, 1, False, 4000, 19)


def test_a_smaller_micro_batch_is_better_than_recomputing() -> None:
    chosen = choose_micro_batch(_room(17_000, 400_000), 16, mean=250, longest=2048)
    assert (chosen.batch, chosen.accumulation, chosen.checkpointing) == (8, 2, False)


def test_recomputing_where_too_little_fits_without() -> None:
    chosen = choose_micro_batch(_room(4_100, 400_000), 16, mean=250, longest=2048)
    assert (chosen.batch, chosen.accumulation, chosen.checkpointing) == (16, 1, "unsloth")


def test_no_more_tokens_than_are_worth_it() -> None:
    chosen = choose_micro_batch(_room(10**6, 10**6), 16, mean=2000, longest=2048)
    assert (chosen.batch, chosen.accumulation) == (4, 4)


def test_what_the_recipe_says_stays() -> None:
    given = choose_micro_batch(_room(10**6, 10**6), 16, mean=250, longest=2048, batch=2, accumulation=4)
    assert (given.batch, given.accumulation, given.checkpointing) == (2, 4, False)
    follows = choose_micro_batch(_room(10**6, 10**6), 16, mean=250, longest=2048, batch=4)
    assert (follows.batch, follows.accumulation) == (4, 4)
    fills = choose_micro_batch(_room(10**6, 10**6), 16, mean=250, longest=2048, accumulation=4)
    assert fills.batch * fills.accumulation == 16


def test_where_nothing_fits_one_sequence_is_tried() -> None:
    chosen = choose_micro_batch(_room(0, 100), 16, mean=250, longest=2048)
    assert (chosen.batch, chosen.accumulation, chosen.checkpointing, chosen.fitting) == (1, 16, "unsloth", 0)
