"""ShareGPT: `conversations`, a list of {"from", "value"}, also nested once, with system and tools columns."""

from __future__ import annotations

from typing import Any

from fastft.data.conversation import Conversation, Message
from fastft.data.faults import RowFaultError, RowRefusedError
from fastft.data.formats.fields import described, list_field, system_message, text_field
from fastft.data.formats.messages import has_turns, read_messages
from fastft.data.formats.tools import read_calls, read_tools

NEEDS = "conversations: a list of {from, value}"
COLUMNS = ("conversations", "tools", "system")

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
}
_IDLE_KEYS = {"from", "value", "weight", "loss", "train"}


def matches(row: dict[str, Any]) -> bool:
    return has_turns(row, "conversations", "from") or has_turns(row, "conversations", "role")


def convert(row: dict[str, Any], place: str) -> Conversation:
    turns = list_field(row, "conversations", "turns")
    if len(turns) == 1 and isinstance(turns[0], list):  # one conversation, nested: [[…]]
        turns = turns[0]
    if turns and isinstance(turns[0], dict) and "role" in turns[0] and "from" not in turns[0]:
        messages = read_messages(turns)
    else:
        messages = _turns(turns)
    return Conversation(tuple(system_message(row, messages)), place, tools=read_tools(row))


def _turns(turns: list[Any]) -> list[Message]:
    if not turns:
        raise RowFaultError("the list of turns is empty", "at least one turn")
    return [_turn(turn, f"turn {number}") for number, turn in enumerate(turns, 1)]


def _turn(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict) or not isinstance(turn.get("from"), str):
        raise RowFaultError(f"{where} is {described(turn)}", "an object with from and value")
    role = _ROLES.get(turn["from"])
    if role is None:
        raise RowFaultError(f"{where} is from {turn['from']!r}", f"one of {', '.join(_ROLES)}")
    _refuse_extras(turn, where)
    try:
        value = text_field(turn, "value")
    except RowFaultError as error:
        raise RowFaultError(f"in {where}, {error.found}", error.expected) from error
    if turn["from"] == "function_call":
        return Message("assistant", "", tool_calls=read_calls(value, f"the function_call in {where}"))
    return Message(role, value)


def _refuse_extras(turn: dict[str, Any], where: str) -> None:
    present = {key for key, value in turn.items() if value not in (None, "", [], {})}
    if weights := sorted(present & (_IDLE_KEYS - {"from", "value"})):
        raise RowRefusedError("a message sets its own weight in training", f"{where}: {', '.join(weights)}")
    if unknown := sorted(present - _IDLE_KEYS):
        raise RowRefusedError("a message has a field that training does not use", f"{where}: {', '.join(unknown)}")
