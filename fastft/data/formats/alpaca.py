"""Alpaca: `instruction`, `input`, `output`, with `history` and `system` columns."""

from __future__ import annotations

from typing import Any

from fastft.data.conversation import Conversation, Message
from fastft.data.faults import RowFaultError
from fastft.data.formats.fields import described, list_field, optional_text, system_message, text_field
from fastft.data.formats.tools import read_tools

NEEDS = "instruction and output (input, history and system if there are)"
COLUMNS = ("instruction", "input", "output", "history", "system", "tools")


def matches(row: dict[str, Any]) -> bool:
    return "instruction" in row and "output" in row


def convert(row: dict[str, Any], place: str) -> Conversation:
    """One user turn of instruction and, on a line of its own, input; before it the history's pairs."""
    asked = "\n".join(part for part in (text_field(row, "instruction"), optional_text(row, "input")) if part)
    messages = [*_history(row), Message("user", asked), Message("assistant", text_field(row, "output"))]
    return Conversation(tuple(system_message(row, messages)), place, tools=read_tools(row))


def _history(row: dict[str, Any]) -> list[Message]:
    if row.get("history") in (None, "", []):
        return []
    messages: list[Message] = []
    for number, pair in enumerate(list_field(row, "history", "[question, answer] pairs"), 1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowFaultError(f"pair {number} of history is {described(pair)}", "[question, answer], both texts")
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    return messages
