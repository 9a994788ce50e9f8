"""`prompt` alone, a text or a list of messages: for methods in which the model writes the answers itself."""

from __future__ import annotations

from typing import Any

from fastft.data.conversation import Conversation
from fastft.data.formats.fields import system_message
from fastft.data.formats.origin import origin_of, row_of, said, without_system
from fastft.data.formats.prompts import check_prompt, placed, read_prompt, write_prompts
from fastft.data.formats.sides import write_side
from fastft.data.formats.tools import read_tools

KIND = "prompt"
NEEDS = "prompt, a text or a list of messages; further columns are kept as they are"
COLUMNS = ("prompt", "system", "tools")

_ANSWERS = ("completion", "chosen", "rejected")


def matches(row: dict[str, Any]) -> bool:
    return row.get("prompt") is not None and not any(column in row for column in _ANSWERS)


def convert(row: dict[str, Any], place: str) -> Conversation:
    """The further columns, which rewards may be computed from, are in the origin: `further(conversation)`."""
    prompt = read_prompt(row, "prompt").messages
    check_prompt(prompt)
    rest = {column: value for column, value in row.items() if column not in COLUMNS}
    origin = origin_of(row, COLUMNS, prompts=placed(row, ["prompt"], prompt), further=rest)
    return Conversation(tuple(system_message(row, prompt)), place, tools=read_tools(row), origin=origin)


def to_row(conversation: Conversation) -> dict[str, Any]:
    prompt = without_system(conversation)
    row = write_prompts(conversation, prompt) or {"prompt": write_side(prompt, None, "user")}
    return further(conversation) | row_of(conversation, row)


def further(conversation: Conversation) -> dict[str, Any]:
    """The row's columns other than those the format reads, unchanged."""
    return dict(said(conversation, "further", {}))
