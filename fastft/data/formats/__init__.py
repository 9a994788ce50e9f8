"""The data formats: which one a set is in, and how its rows become conversations.

A format is one module with `NEEDS` (its columns, for people), `COLUMNS` (all columns it reads), `matches(row)` and
`convert(row, place)`; `convert` raises RowFaultError or RowRefusedError. A new one is a file and a line in FORMATS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, cast

from fastft.data.conversation import Conversation
from fastft.data.sources import Row
from fastft.errors import DatasetError

FORMATS = {
    "messages": "fastft.data.formats.messages",
    "sharegpt": "fastft.data.formats.sharegpt",
    "alpaca": "fastft.data.formats.alpaca",
    "prompt_completion": "fastft.data.formats.prompt_completion",
    "text": "fastft.data.formats.text",
}

# Columns that mark data for methods other than supervised fine-tuning. Without this, an answer that was recorded
# as a bad one would be trained on as a good one.
_PREFERENCES = {
    "preference pairs": ({"chosen", "rejected"},),
    "unpaired preferences": ({"messages", "label"}, {"prompt", "completion", "label"}, {"conversations", "label"}),
}


class Format(Protocol):
    """What a module in FORMATS offers."""

    NEEDS: str
    COLUMNS: tuple[str, ...]

    def matches(self, row: Mapping[str, Any]) -> bool: ...
    def convert(self, row: dict[str, Any], place: str) -> Conversation: ...


def load_format(name: str) -> Format:
    return cast(Format, import_module(FORMATS[name]))


def choose_format(rows: Sequence[Row], named: str, source: str) -> str:
    """`named`, or where it is "auto" the one format the rows are in.

    Raises DatasetError listing the candidates where none, or more than one, fits.
    """
    if named != "auto":
        return named
    _refuse_preferences(rows, source)
    fits = {name: [row for row in rows if load_format(name).matches(row.values)] for name in FORMATS}
    whole = [name for name, fitting in fits.items() if len(fitting) == len(rows)]
    some = [name for name, fitting in fits.items() if fitting]
    candidates = whole or some
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise DatasetError(f"{source}: no known format has the columns {_columns(rows)}", hint=_known_formats())
    if whole:
        raise DatasetError(
            f"{source}: the columns {_columns(rows)} fit more than one format: {', '.join(candidates)}",
            hint="Name the one to train on in data.format.",
        )
    first = "; ".join(f"{name} from {fits[name][0].place}" for name in some)
    raise DatasetError(
        f"{source}: the rows are in different formats: {first}",
        hint="Split the file by format, or name one in data.format to see which rows are not in it.",
    )


def _refuse_preferences(rows: Sequence[Row], source: str) -> None:
    for kind, column_sets in _PREFERENCES.items():
        for columns in column_sets:
            marked = [row for row in rows if columns <= row.values.keys()]
            if not marked or ("label" in columns and not isinstance(marked[0].values["label"], bool)):
                continue
            raise DatasetError(
                f"{source}: the columns {', '.join(sorted(columns))} (first in {marked[0].place}) make this a set of"
                f" {kind}, and method sft does not tell good answers from bad ones",
                hint="Use a set of good answers, or name data.format to train on them all the same.",
            )


def _columns(rows: Sequence[Row]) -> str:
    counts = Counter(column for row in rows for column in row.values)
    shown = [name if n == len(rows) else f"{name} ({n} of {len(rows)} rows)" for name, n in counts.most_common(12)]
    return ", ".join(shown) or "(none)"


def _known_formats() -> str:
    known = "\n".join(f"  {name}: {load_format(name).NEEDS}" for name in FORMATS)
    return f"Known formats:\n{known}\nOther column names are mapped in data.columns, for example {{output: answer}}."
