"""`messages`: a list of {"role", "content"}, as OpenAI and TRL write it, with tools, tool calls and reasoning."""

from __future__ import annotations

from typing import Any

from fastft.data.conversation import Conversation, Message
from fastft.data.faults import RowFaultError, RowRefusedError
from fastft.data.formats.fields import described, list_field, system_message
from fastft.data.formats.tools import read_calls, read_tools

NEEDS = "messages: a list of {role, content}"
COLUMNS = ("messages", "tools", "system")

# OpenAI renamed system to developer for its newer models; other models' templates know only system.
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_KEYS = {"role", "content", "tool_calls", "function_call", "reasoning_content", "thinking", "name", "tool_call_id"}
_WEIGHTS = {"weight", "train", "loss", "trainable"}


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
    return isinstance(first, dict) and key in first


def convert(row: dict[str, Any], place: str) -> Conversation:
    messages = read_messages(list_field(row, "messages", "messages"))
    return Conversation(tuple(system_message(row, messages)), place, tools=read_tools(row))


def read_messages(turns: list[Any]) -> list[Message]:
    """Raises RowFaultError for a malformed turn, RowRefusedError for one that training can't express."""
    if not turns:
        raise RowFaultError("the list of messages is empty", "at least one message")
    return [_message(turn, number) for number, turn in enumerate(turns, 1)]


def _message(turn: Any, number: int) -> Message:
    where = f"message {number}"
    if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
        raise RowFaultError(f"{where} is {described(turn)}", "an object with role and content")
    role = _ROLES.get(turn["role"])
    if role is None:
        raise RowFaultError(f"{where} has the role {turn['role']!r}", f"one of {', '.join(_ROLES)}")
    present = {key: value for key, value in turn.items() if value is not None}
    _refuse_unknown(present, where)
    calls = present.get("tool_calls") or present.get("function_call")
    return Message(
        role,
        _content(turn, where, optional=bool(calls)),
        tool_calls=read_calls(calls, f"tool_calls of {where}") if calls else (),
        reasoning_content=_text(present, ("reasoning_content", "thinking"), where),
        name=_text(present, ("name",), where),
        tool_call_id=_text(present, ("tool_call_id",), where),
    )


def _refuse_unknown(present: dict[str, Any], where: str) -> None:
    if weights := sorted(_WEIGHTS & present.keys()):
        raise RowRefusedError("a message sets its own weight in training", f"{where}: {', '.join(weights)}")
    if unknown := sorted(k for k in present.keys() - _KEYS if present[k] not in ("", [], {})):
        raise RowRefusedError("a message has a field that training does not use", f"{where}: {', '.join(unknown)}")


def _content(turn: dict[str, Any], where: str, *, optional: bool) -> str:
    """The text of `content`; a list of text parts is joined as templates do, any other part is refused."""
    content = turn.get("content")
    if content is None and optional:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        found = f"the content of {where} is {described(content)}" if "content" in turn else f"{where} has no content"
        raise RowFaultError(found, "a text or a list of parts")
    return "".join(_part(part, where) for part in content)


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type", "text") == "text":
        return part["text"]
    kind = part.get("type") if isinstance(part, dict) else None
    if kind is None:
        raise RowFaultError(f"a content part of {where} is {described(part)}", 'parts like {"type": "text", "text": …}')
    raise RowRefusedError("a message has a content part that is no text", f"{where}: {kind}")


def _text(present: dict[str, Any], keys: tuple[str, ...], where: str) -> str | None:
    for key in keys:
        if key in present:
            if not isinstance(present[key], str):
                raise RowFaultError(f"{key} of {where} is {described(present[key])}", "a text")
            return present[key] or None
    return None
