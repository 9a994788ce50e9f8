"""One column that holds part of a conversation: a text, a turn, a list of turns, or a transcript."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastft.data.conversation import Message
from fastft.data.faults import RowFaultError, RowRefusedError
from fastft.data.formats.fields import described, parsed
from fastft.data.formats.messages import has_turns, unnested
from fastft.data.formats.sharegpt import read_turns, spelling, write_turns
from fastft.data.formats.transcript import is_transcript, read_transcript, transcript_spelling, write_transcript


@dataclass(frozen=True, slots=True)
class Side:
    """A column's messages, and how they are spelled there: what `write_side` needs to write them so again."""

    messages: list[Message]
    spelled: dict[str, Any] = field(default_factory=dict)

    @property
    def is_text(self) -> bool:
        """Whether the column holds one plain text, whose role its place in the row tells."""
        return self.spelled.get("shape") == "text"


def read_side(row: dict[str, Any], column: str, role: str, *, transcripts: bool = True) -> Side:
    """A text is one turn of `role`. Raises RowFaultError and RowRefusedError, which name the column."""
    value = row.get(column)
    if isinstance(value, str) and has_turns(row, column, "role"):
        value = parsed(value, column)
    if isinstance(value, str):
        if transcripts and is_transcript(value):
            return Side(read_transcript(value), transcript_spelling(value))
        return Side([Message(role, value)], {"shape": "text"})
    if not isinstance(value, list | dict):
        found = f"{column} is {described(value)}" if column in row else f"{column} is missing"
        raise RowFaultError(found, "a text or a list of messages")
    turns = unnested(value, column) if isinstance(value, list) else [value]
    shape = "turn" if isinstance(value, dict) else "nested" if turns is not value else "list"
    try:
        return Side(read_turns(turns), {"shape": shape, **spelling(turns)})
    except RowFaultError as error:
        raise RowFaultError(f"in {column}, {error.found}", error.expected, error.hint) from error
    except RowRefusedError as error:
        raise RowRefusedError(error.reason, f"{column}: {error.detail}") from error


def write_side(messages: Sequence[Message], spelled: dict[str, Any] | None, role: str) -> Any:
    """`messages` as the row had them; where `spelled` is None, as a text if that says it all, else as messages."""
    if spelled is None:
        plain = len(messages) == 1 and messages[0] == Message(role, messages[0].content)
        spelled = {"shape": "text"} if plain else {"keys": "messages"}
    shape = spelled.get("shape")
    if shape == "text":
        return (" " if spelled.get("space") else "") + messages[0].content
    if shape == "transcript":
        return write_transcript(messages, spelled)
    turns = write_turns(messages, spelled)
    return turns[0] if shape == "turn" else [turns] if shape == "nested" else turns
