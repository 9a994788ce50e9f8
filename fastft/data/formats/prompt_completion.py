"""Prompt and completion: two texts, or two lists of messages, as TRL and OpenAI write them."""

from __future__ import annotations

from typing import Any

from fastft.data.conversation import Conversation
from fastft.data.faults import RowFaultError
from fastft.data.formats.fields import system_message
from fastft.data.formats.origin import origin_of, row_of, said, without_system
from fastft.data.formats.sides import read_side, write_side
from fastft.data.formats.tools import read_tools

KIND = "conversation"
NEEDS = "prompt and completion, both texts or both lists of {role, content}"
COLUMNS = ("prompt", "completion", "system", "tools")


def matches(row: dict[str, Any]) -> bool:
    return "prompt" in row and "completion" in row


def convert(row: dict[str, Any], place: str) -> Conversation:
    """The prompt is the user's turn and the completion the assistant's, through the model's chat template."""
    prompt = read_side(row, "prompt", "user", transcripts=False)
    completion = read_side(row, "completion", "assistant", transcripts=False)
    if any(message.role != "assistant" for message in completion.messages[:1]):
        raise RowFaultError(f"the completion begins with a {completion.messages[0].role} turn", "an assistant turn")
    spelled = {"prompt": prompt.spelled, "completion": completion.spelled}
    origin = origin_of(row, COLUMNS, spelled=spelled, answer=len(completion.messages))
    messages = tuple(system_message(row, prompt.messages + completion.messages))
    return Conversation(messages, place, tools=read_tools(row), origin=origin)


def to_row(conversation: Conversation) -> dict[str, Any]:
    messages, spelled = without_system(conversation), said(conversation, "spelled", {})
    split = len(messages) - said(conversation, "answer", 1)
    prompt = write_side(messages[:split], spelled.get("prompt"), "user")
    completion = write_side(messages[split:], spelled.get("completion"), "assistant")
    return row_of(conversation, {"prompt": prompt, "completion": completion})
