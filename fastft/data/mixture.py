"""How much of a source is seen: a share of its rows, a number of them, or all of them several times.

The choice is seeded, exact in number, keeps the order of the rows, and needs no more memory for more rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fastft.data.rows import Row
from fastft.errors import DatasetError, Fault

Rows = Callable[[], Iterator[Row | Fault]]


@dataclass(frozen=True, slots=True)
class Share:
    """At most one of the three is set; none means all rows once. `seed` holds the run's seed and the source's name."""

    fraction: float | None = None
    count: int | None = None
    weight: float | None = None
    seed: str = ""

    @property
    def is_all(self) -> bool:
        return self.fraction is None and self.count is None and self.weight in (None, 1)


ALL_ROWS = Share()


def take(rows: Rows, share: Share, name: str) -> Iterator[Row | Fault]:
    """The share of what `rows()` gives; it is called anew for each pass. Every fault is given, once.

    Raises DatasetError if `count` rows are wanted of fewer.
    """
    if share.is_all:
        yield from rows()
        return
    total = sum(isinstance(row, Row) for row in rows())
    if share.count is not None and share.count > total:
        raise DatasetError(
            f"{name}: {share.count:,} rows are wanted, and it holds {total:,}",
            hint=f"Set count to at most {total:,}; weight: {share.count / max(total, 1):.2f} would repeat rows.",
        )
    whole, part = _passes(share, total)
    for number in range(whole):
        yield from (row for row in rows() if number == 0 or isinstance(row, Row))
    if part or not whole:
        yield from _sample(rows(), total, part, random.Random(share.seed), with_faults=not whole)


def _passes(share: Share, total: int) -> tuple[int, int]:
    """(how often all rows are seen, how many rows are seen once more)"""
    if share.count is not None:
        return 0, share.count
    wanted = share.weight if share.weight is not None else share.fraction
    assert wanted is not None, "is_all has been handled"
    if wanted < 1:
        return 0, min(total, max(1, round(wanted * total)))
    return int(wanted), round((wanted - int(wanted)) * total)


def _sample(
    rows: Iterator[Row | Fault], total: int, wanted: int, chance: random.Random, *, with_faults: bool
) -> Iterator[Row | Fault]:
    """Exactly `wanted` of `total` rows in their order, all choices equally likely (Knuth, TAOCP 3.4.2, algorithm S)."""
    left = total
    for row in rows:
        if not isinstance(row, Row):
            if with_faults:
                yield row
            continue
        if chance.random() * left < wanted:
            wanted -= 1
            yield row
        left -= 1
