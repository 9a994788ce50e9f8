"""Alpaca: `instruction`, `input`, `output`, with `history` and `system` columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastft.data.conversation import Conversation, Message
from fastft.data.faults import RowFaultError
from fastft.data.formats.fields import described, list_field, optional_text, system_message, text_field
from fastft.data.formats.origin import origin_of, row_of, said
from fastft.data.formats.tools import read_tools

KIND = "conversation"
NEEDS = "instruction and output (input, history and system if there are)"
COLUMNS = ("instruction", "input", "output", "history", "system", "tools")


def matches(row: dict[str, Any]) -> bool:
    return "instruction" in row and "output" in row


def convert(row: dict[str, Any], place: str) -> Conversation:
    messages = [*read_question(row), Message("assistant", text_field(row, "output"))]
    origin = origin_of(row, COLUMNS, input=row.get("input"))
    return Conversation(tuple(system_message(row, messages)), place, tools=read_tools(row), origin=origin)


def to_row(conversation: Conversation) -> dict[str, Any]:
    *question, answer = conversation.messages
    system = {"system": question.pop(0).content} if question[0].role == "system" else {}
    row = {**write_question(conversation, question), "output": answer.content, **system}
    return row_of(conversation, row)


def read_question(row: dict[str, Any]) -> list[Message]:
    """The history's turns, then one user turn of instruction and, on a line of its own, input."""
    asked = "\n".join(part for part in (text_field(row, "instruction"), optional_text(row, "input")) if part)
    return [*_history(row), Message("user", asked)]


def write_question(conversation: Conversation, messages: Sequence[Message]) -> dict[str, Any]:
    """The columns that `read_question` would read as `messages`."""
    *history, asked = messages
    extra = said(conversation, "input", "")
    instruction = asked.content if not extra else asked.content[: -len(extra)].removesuffix("\n")
    row: dict[str, Any] = {"instruction": instruction}
    if extra:
        row["input"] = extra
    if history:
        texts = [message.content for message in history]
        row["history"] = [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    return row


def _history(row: dict[str, Any]) -> list[Message]:
    if row.get("history") in (None, "", []):
        return []
    messages: list[Message] = []
    for number, pair in enumerate(list_field(row, "history", "[question, answer] pairs"), 1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowFaultError(f"pair {number} of history is {described(pair)}", "[question, answer], both texts")
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    return messages
