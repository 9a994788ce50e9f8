"""Prompt and completion: two texts, or two lists of messages, as TRL and OpenAI write them."""

from __future__ import annotations

from typing import Any

from fastft.data.conversation import Conversation, Message
from fastft.data.faults import RowFaultError
from fastft.data.formats.fields import described, parsed, system_message
from fastft.data.formats.messages import has_turns, read_messages
from fastft.data.formats.tools import read_tools

NEEDS = "prompt and completion, both texts or both lists of {role, content}"
COLUMNS = ("prompt", "completion", "system", "tools")


def matches(row: dict[str, Any]) -> bool:
    return "prompt" in row and "completion" in row


def convert(row: dict[str, Any], place: str) -> Conversation:
    """The prompt is the user's turn and the completion the assistant's, through the model's chat template."""
    prompt = _side(row, "prompt", "user")
    completion = _side(row, "completion", "assistant")
    if any(message.role != "assistant" for message in completion[:1]):
        raise RowFaultError(f"the completion begins with a {completion[0].role} turn", "an assistant turn")
    return Conversation(tuple(system_message(row, prompt + completion)), place, tools=read_tools(row))


def _side(row: dict[str, Any], column: str, role: str) -> list[Message]:
    value = row.get(column)
    if isinstance(value, str) and has_turns(row, column, "role"):
        value = parsed(value, column)
    if isinstance(value, str):
        return [Message(role, value)]
    if isinstance(value, list):
        return read_messages(value)
    found = f"{column} is {described(value)}" if column in row else f"{column} is missing"
    raise RowFaultError(found, "a text or a list of messages")
