"""`text`: raw text to go on pretraining with, one document a row."""

from __future__ import annotations

from typing import Any

from fastft.data.conversation import Conversation
from fastft.data.formats.fields import text_field

KIND = "conversation"
NEEDS = "text: one document a row"
COLUMNS = ("text",)


def matches(row: dict[str, Any]) -> bool:
    return isinstance(row.get("text"), str)


def convert(row: dict[str, Any], place: str) -> Conversation:
    return Conversation((), place, text=text_field(row, "text"))


def to_row(conversation: Conversation) -> dict[str, Any]:
    return {"text": conversation.text}
