"""The two ways a row can fail, raised by the stages and gathered by `prepare`."""

from __future__ import annotations

from dataclasses import dataclass


class RowFaultError(Exception):
    """The row is malformed: what was found and what was expected there. Such rows stop the preparation."""

    def __init__(self, found: str, expected: str, hint: str = "") -> None:
        super().__init__(found)
        self.found = found
        self.expected = expected
        self.hint = hint


class RowRefusedError(Exception):
    """The row is well-formed but can't become a right example. Such rows are left out, counted and shown.

    `reason` is the same for all rows of a kind, `detail` is this row's.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row, or an answer of it, that nothing can be learned from. `reason` is one of few, for counting."""

    place: str
    reason: str
    detail: str = ""
