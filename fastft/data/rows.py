"""A row with its place, and how broken ones are told. What every reader and stage of the data shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from fastft.errors import DatasetError, Fault

SHOWN_FAULTS = 10
SHOWN_PLACES = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One row's columns, and where it stands: "train.jsonl:17" (line) or "train.json row 17" (1-based)."""

    values: dict[str, Any]
    place: str


def raise_faults(name: str, faults: Sequence[Fault], unit: str, hint: str) -> NoReturn:
    """One DatasetError for all faults: each kind once, with the places of the first rows that have it."""
    kinds: dict[tuple[str, str, str], list[str]] = {}
    for fault in faults:
        kinds.setdefault((fault.found, fault.expected, fault.hint), []).append(fault.where)
    shown = [Fault(_places(where), *kind) for kind, where in list(kinds.items())[:SHOWN_FAULTS]]
    more = f", {len(kinds)} kinds of fault, the first {SHOWN_FAULTS} are" if len(kinds) > SHOWN_FAULTS else ""
    count = f"{len(faults):,} broken {unit}{more}" if len(faults) > 1 else f"a broken {unit[:-1]}"
    raise DatasetError(f"{name}: {count}", hint=hint, faults=shown)


def _places(where: Sequence[str]) -> str:
    """The first places, and how many more there are: "a.jsonl:3, a.jsonl:7 and 12 more"."""
    more = len(where) - SHOWN_PLACES
    return ", ".join(where[:SHOWN_PLACES]) + (f" and {more:,} more" if more > 0 else "")
