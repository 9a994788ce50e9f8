"""The data formats: which one a set is in, and how its rows become conversations and rows again.

A format is one module with `KIND` (what its rows are for), `NEEDS` (its columns, for people), `COLUMNS` (all columns
it reads), `matches(row)`, `convert(row, place)` and `to_row(conversation)`; `convert` raises RowFaultError or
RowRefusedError. A new one is a file and a line in FORMATS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Literal, Protocol, cast

from fastft.data.conversation import Conversation
from fastft.data.rows import Row

FORMATS = {
    "messages": "fastft.data.formats.messages",
    "sharegpt": "fastft.data.formats.sharegpt",
    "alpaca": "fastft.data.formats.alpaca",
    "prompt_completion": "fastft.data.formats.prompt_completion",
    "text": "fastft.data.formats.text",
    "preference": "fastft.data.formats.preference",
    "unpaired_preference": "fastft.data.formats.unpaired",
    "prompt_only": "fastft.data.formats.prompt_only",
}

Kind = Literal["conversation", "preference", "unpaired", "prompt"]


class Format(Protocol):
    """What a module in FORMATS offers."""

    KIND: Kind
    NEEDS: str
    COLUMNS: tuple[str, ...]

    def matches(self, row: Mapping[str, Any]) -> bool: ...
    def convert(self, row: dict[str, Any], place: str) -> Conversation: ...
    def to_row(self, conversation: Conversation) -> dict[str, Any]:
        """The row that `convert` makes `conversation` of, in the spelling of the row it came from.

        Spellings that say the same are one: a developer turn is written as system, content parts as text, arguments
        given as JSON text as an object, a null as nothing. `convert` gives the same conversation for both.
        """
        ...


def load_format(name: str) -> Format:
    return cast(Format, import_module(FORMATS[name]))


def choose_format(rows: Sequence[Row], named: str, source: str, *, kinds: Sequence[Kind] = ("conversation",)) -> str:
    """`named`, or where it is "auto" the one format the rows are in. `kinds` are those the method learns from.

    Raises DatasetError listing the candidates where none, or more than one, fits, and for rows of another kind.
    """
    from fastft.data.formats.detection import detect, no_texts, require_kind

    if named == "auto":
        return detect(rows, source, kinds)
    require_kind(named, kinds)
    if named == "text" and not any("text" in row.values for row in rows):
        raise no_texts(rows, source)
    return named
