"""`messages`: a list of {"role", "content"}, as OpenAI and TRL write it, with tools, tool calls and reasoning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastft.data.conversation import Conversation, Message
from fastft.data.faults import RowFaultError, RowRefusedError
from fastft.data.formats.fields import described, list_field, system_message
from fastft.data.formats.origin import origin_of, row_of, said, without_system
from fastft.data.formats.parts import Content, read_parts
from fastft.data.formats.tools import read_calls, read_tools
from fastft.data.formats.weights import WEIGHT_KEYS, read_weight, weight_field

KIND = "conversation"
NEEDS = "messages: a list of {role, content}"
COLUMNS = ("messages", "tools", "system")

# OpenAI renamed system to developer for its newer models; other models' templates know only system.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "function": "tool",
}
_TEXTS = {"reasoning_content", "thinking", "name", "tool_call_id"}
_KEYS = {"role", "content", "tool_calls", "function_call", *_TEXTS, *WEIGHT_KEYS}


def matches(row: dict[str, Any]) -> bool:
    return has_turns(row, "messages", "role")


def has_turns(row: dict[str, Any], column: str, key: str) -> bool:
    """Whether `column` holds a list of objects with `key`, or JSON text that looks like one."""
    value = row.get(column)
    if isinstance(value, str):
        return value.lstrip().startswith("[") and f'"{key}"' in value
    if not isinstance(value, list) or not value:
        return False
    first = value[0][0] if isinstance(value[0], list) and value[0] else value[0]
    return isinstance(first, dict) and first.get(key) is not None


def convert(row: dict[str, Any], place: str) -> Conversation:
    given = list_field(row, "messages", "messages")
    turns = unnested(given, "messages")
    messages = tuple(system_message(row, read_messages(turns)))
    origin = origin_of(row, COLUMNS, nested=turns is not given)
    return Conversation(messages, place, tools=read_tools(row), origin=origin)


def to_row(conversation: Conversation) -> dict[str, Any]:
    messages = write_messages(without_system(conversation))
    return row_of(conversation, {"messages": [messages] if said(conversation, "nested") else messages})


def unnested(turns: list[Any], column: str) -> list[Any]:
    """The conversation in [[…]], or `turns` where it is not nested. Raises RowFaultError if there are several."""
    nested = sum(isinstance(turn, list) for turn in turns)
    if nested and len(turns) > 1:
        raise RowFaultError(
            f"{column} holds {len(turns)} conversations in one row",
            "one conversation a row",
            "Write each into a row of its own.",
        )
    return turns[0] if nested else turns


def read_messages(turns: list[Any]) -> list[Message]:
    """Raises RowFaultError for a malformed turn, RowRefusedError for one that training can't express."""
    if not turns:
        raise RowFaultError("the list of messages is empty", "at least one message")
    return [message for number, turn in enumerate(turns, 1) for message in _messages(turn, f"message {number}")]


def write_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """`messages` as rows hold them: as templates take them, and the weights."""
    return [message.as_dict() | weight_field(message) for message in messages]


def _messages(turn: Any, where: str) -> list[Message]:
    """The messages of one turn: one, but for a user turn that begins with tool results."""
    if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
        raise RowFaultError(f"{where} is {described(turn)}", "an object with role and content")
    role = ROLES.get(turn["role"])
    if role is None:
        raise RowFaultError(f"{where} has the role {turn['role']!r}", f"one of {', '.join(ROLES)}")
    present = {key: value for key, value in turn.items() if value is not None}
    if unknown := sorted(k for k in present.keys() - _KEYS if present[k] not in ("", [], {})):
        raise RowRefusedError("a message has a field that training does not use", f"{where}: {', '.join(unknown)}")
    weight, stated = read_weight(present, where)
    content = _content(turn, role, where)
    if content.results:
        return _results(present, content, role, where)
    message = Message(
        role,
        content.text,
        tool_calls=_calls(present, content, where),
        reasoning_content=_reasoning(present, content, where),
        name=_text(present, "name", where),
        tool_call_id=_text(present, "tool_call_id", where),
        weight=weight,
        weight_as=stated,
    )
    return [message]


def _content(turn: dict[str, Any], role: str, where: str) -> Content:
    """The parts of `content`; texts are joined as templates do. It may be absent where there are tool calls."""
    content = turn.get("content")
    if content is None and (turn.get("tool_calls") or turn.get("function_call")):
        return Content()
    if isinstance(content, str):
        return Content(content)
    if not isinstance(content, list):
        found = f"the content of {where} is {described(content)}" if "content" in turn else f"{where} has no content"
        raise RowFaultError(found, "a text or a list of parts")
    return read_parts(content, role, where)


def _results(present: dict[str, Any], content: Content, role: str, where: str) -> list[Message]:
    """Tool results as tool turns; the text after them stays a turn of the user's."""
    extra = sorted(key for key in present.keys() - {"role", "content"} if present[key] not in ("", [], {}))
    if extra:
        raise RowRefusedError("a turn of tool results has further fields", f"{where}: {', '.join(extra)}")
    if content.text and role == "tool":
        raise RowRefusedError("a tool turn has text beside its tool results", where)
    return [*content.results, *([Message(role, content.text)] if content.text else [])]


def _calls(present: dict[str, Any], content: Content, where: str) -> tuple[dict[str, Any], ...]:
    """The turn's tool calls, which may be written in several places if all say the same."""
    given = [read_calls(present[k], f"{k} of {where}") for k in ("tool_calls", "function_call") if present.get(k)]
    given += [tuple(content.calls)] if content.calls else []
    if any(calls != given[0] for calls in given):
        raise RowFaultError(f"{where} has tool calls in {len(given)} places that differ", "tool_calls alone")
    return given[0] if given else ()


def _reasoning(present: dict[str, Any], content: Content, where: str) -> str | None:
    given = [_text(present, key, where) for key in ("reasoning_content", "thinking")] + [content.reasoning]
    said_once = {text for text in given if text}
    if len(said_once) > 1:
        raise RowFaultError(f"{where} has reasoning in {len(said_once)} places that differ", "reasoning_content alone")
    return said_once.pop() if said_once else None


def _text(present: dict[str, Any], key: str, where: str) -> str | None:
    value = present.get(key)
    if value is not None and not isinstance(value, str):
        raise RowFaultError(f"{key} of {where} is {described(value)}", "a text")
    return value or None
