"""Time left, on made-up timelines whose rest is known."""

from __future__ import annotations

import random

import pytest

from fastft.time_left import TimeLeft, spoken, steps_of_strategy


def _after(steps: list[float], total: int, **options: object) -> TimeLeft:
    left = TimeLeft(total, **options)  # type: ignore[arg-type]
    for seconds in steps:
        left.step(seconds)
    return left


def test_nothing_is_known_before_the_first_step_unless_it_was_planned() -> None:
    assert TimeLeft(100).left(0) is None
    assert TimeLeft(100, planned=2.0).left(0) == 200.0


def test_the_first_steps_compile_and_do_not_count() -> None:
    assert _after([60.0, 8.0, 3.0, *[1.0] * 7], 110).left(10) == pytest.approx(100.0)


def test_until_others_are_known_the_fastest_of_the_first_steps_counts() -> None:
    assert _after([60.0, 2.0], 12).left(2) == pytest.approx(20.0)


def test_a_stall_is_not_expected_again() -> None:
    assert _after([1.0] * 20 + [300.0] + [1.0] * 19, 140).left(40) == pytest.approx(100.0)


def test_unequal_steps_are_summed_and_not_taken_at_their_median() -> None:
    """Two of three steps take 1 s and one takes 4: the rest takes 2 s a step, and the median would say 1."""
    assert _after([1.0, 1.0, 4.0] * 34, 1000).left(102) == pytest.approx(2.0 * 898, rel=0.1)


def test_only_recent_steps_count() -> None:
    assert _after([1.0] * 200 + [3.0] * 100, 400).left(300) == pytest.approx(300.0)


def test_the_plan_counts_until_measured() -> None:
    """Planned at 2 s and measured at 1 s: weighed equally after five steps, hardly seen after a hundred."""
    assert _after([1.0] * 3, 103, planned=2.0).left(3) == pytest.approx(200.0)
    assert _after([1.0] * 8, 108, planned=2.0).left(8) == pytest.approx(150.0)
    assert _after([1.0] * 103, 203, planned=2.0).left(103) == pytest.approx(100 * (100 + 2 * 5) / 105)


def test_evaluations_and_checkpoints_to_come_are_added() -> None:
    left = _after([1.0] * 20, 40, evaluations=(10, 20, 30, 40), checkpoints=(20, 40))
    left.evaluated(5.0)
    left.evaluated(7.0)
    left.saved(2.0)
    assert left.left(20) == pytest.approx(20.0 + 2 * 6.0 + 2.0)


def test_at_the_end_nothing_is_left() -> None:
    assert _after([1.0] * 9, 9, evaluations=(9,)).left(9) == 0.0


def test_from_a_tenth_on_it_is_right_within_a_tenth() -> None:
    """Lengths as chats have them: log-normal. Each estimate from a tenth of the steps on, against what came."""
    draw = random.Random(1)
    steps = [draw.lognormvariate(0.0, 0.3) for _ in range(1000)]
    left = TimeLeft(1000)
    for done, seconds in enumerate(steps, start=1):
        left.step(seconds)
        if 100 <= done <= 900:
            assert left.left(done) == pytest.approx(sum(steps[done:]), rel=0.1)


@pytest.mark.parametrize(
    ("strategy", "every", "expected"),
    [("steps", 4, (4, 8)), ("epoch", 0, (5, 10)), ("no", 4, ()), ("best", 4, ()), ("steps", 0, ())],
)
def test_when_something_is_done(strategy: str, every: int, expected: tuple[int, ...]) -> None:
    assert steps_of_strategy(strategy, every, 10, 5.0) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (200, "3 min 20 s"), (1234, "20 min"), (7500, "2 h 5 min"),
     (7200, "2 h")],
)  # fmt: skip
def test_times_are_said_as_people_do(seconds: float, text: str) -> None:
    assert spoken(seconds) == text
