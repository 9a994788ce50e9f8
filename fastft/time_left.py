"""How long a training will still take, from the steps it has taken."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

_RECENT = 100  # steps that are looked back on
_WARMING = 3  # first steps, which allocate, compile and fill caches
_TRIMMED = 0.1  # share of the recent steps at either end that is left out: a stall must not count for the rest
_TRUST = 5  # steps after which measured and planned seconds weigh the same


@dataclass(slots=True)
class TimeLeft:
    """Seconds left of a training of `total` steps, by its recent steps, and the evaluations and checkpoints to come.

    `planned` is a step's seconds as estimated beforehand, which counts until enough steps were measured.
    `evaluations` and `checkpoints` are the steps after which they are made, in ascending order.
    """

    total: int
    planned: float | None = None
    evaluations: tuple[int, ...] = ()
    checkpoints: tuple[int, ...] = ()
    _first: list[float] = field(default_factory=list)
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _evaluating: list[float] = field(default_factory=list)
    _saving: list[float] = field(default_factory=list)

    def step(self, seconds: float) -> None:
        """A step was taken, its wait for data included, without the evaluation or checkpoint after it."""
        (self._first if len(self._first) < _WARMING else self._recent).append(seconds)

    def evaluated(self, seconds: float) -> None:
        self._evaluating.append(seconds)

    def saved(self, seconds: float) -> None:
        self._saving.append(seconds)

    def a_step(self) -> float | None:
        """Seconds of a step to come, or None while nothing is known.

        The trimmed mean of the recent ones rather than their median: where lengths differ much, the median of the steps
        times their number is not their sum.
        """
        measured = _trimmed_mean(self._recent) if self._recent else min(self._first, default=None)
        if measured is None or self.planned is None:
            return measured if measured is not None else self.planned
        weight = len(self._recent) / (len(self._recent) + _TRUST)
        return weight * measured + (1 - weight) * self.planned

    def left(self, done: int) -> float | None:
        """Seconds left after step `done`, or None while nothing is known."""
        each = self.a_step()
        if each is None:
            return None
        beside = _to_come(self.evaluations, done) * _typical(self._evaluating)
        beside += _to_come(self.checkpoints, done) * _typical(self._saving)
        return each * max(0, self.total - done) + beside


def steps_of_strategy(strategy: str, every: int, total: int, epoch: float) -> tuple[int, ...]:
    """The steps of 1…`total` after which something is done `every` so many steps, or each `epoch` of so many steps."""
    if strategy == "steps" and every > 0:
        return tuple(range(every, total + 1, every))
    if strategy == "epoch" and epoch > 0:
        return tuple(min(total, round(epoch * n)) for n in range(1, max(1, round(total / epoch)) + 1))
    return ()


def _to_come(steps: tuple[int, ...], done: int) -> int:
    return sum(step > done for step in steps)


def _typical(seconds: list[float]) -> float:
    return median(seconds) if seconds else 0.0


def _trimmed_mean(seconds: deque[float]) -> float:
    ordered = sorted(seconds)
    cut = int(len(ordered) * _TRIMMED)
    kept = ordered[cut : len(ordered) - cut]
    return sum(kept) / len(kept)


def spoken(seconds: float) -> str:
    """Seconds as people say them: "40 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes < 10 and rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
