"""Content as a list of parts: text, reasoning, tool calls and tool results, as OpenAI and Anthropic write it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastft.data.conversation import Message
from fastft.data.faults import RowFaultError, RowRefusedError
from fastft.data.formats.fields import described
from fastft.data.formats.tools import CALL_TYPES, read_calls

_TEXTS = ("text", "input_text", "output_text")
_REASONING = ("thinking", "reasoning")
_RESULT = "tool_result"
# Bookkeeping of the services that wrote the row: no text of the conversation.
_IDLE = {"type", "signature", "cache_control"}
# The order in which every chat template writes an answer. Parts in another order would change places.
_ORDER = ("reasoning", "text", "tool calls")


@dataclass(slots=True)
class Content:
    """What the parts of one turn hold. `results` are tool turns that stand before the turn's own text."""

    text: str = ""
    reasoning: str | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)
    results: list[Message] = field(default_factory=list)


def read_parts(parts: list[Any], role: str, where: str) -> Content:
    """Raises RowFaultError for a malformed part, RowRefusedError for one that a text model can't be shown."""
    content = Content()
    stage = 0
    for part in parts:
        kind = _kind(part, where)
        if kind == _RESULT:
            _add_result(content, part, role, where)
            continue
        found = 0 if kind in _REASONING else 2 if kind in CALL_TYPES else 1
        if found != 1 and role != "assistant":
            raise RowFaultError(f"{where} has a {kind} part", f"{kind} only in an assistant turn")
        if found == 1 and not _text_of(part, ("text",), where):
            continue
        if found < stage:
            raise RowRefusedError(f"a message has {_ORDER[found]} after its {_ORDER[stage]}", where)
        stage = found
        _add(content, part, found, where)
    return content


def _kind(part: Any, where: str) -> str:
    if isinstance(part, str):
        return "text"
    kind = part.get("type") if isinstance(part, dict) else None
    if kind is None and isinstance(part, dict) and "text" in part:
        return "text"
    if not isinstance(kind, str):
        raise RowFaultError(f"a content part of {where} is {described(part)}", 'parts like {"type": "text", "text": …}')
    if kind not in (*_TEXTS, _RESULT, *_REASONING, *CALL_TYPES):
        raise RowRefusedError("a message has a content part that is no text", f"{where}: {kind}")
    return kind


def _add(content: Content, part: Any, found: int, where: str) -> None:
    if found == 0:
        content.reasoning = (content.reasoning or "") + _text_of(part, (*_REASONING, "text"), where)
    elif found == 1:
        content.text += _text_of(part, ("text",), where)
    else:
        call = {key: value for key, value in part.items() if key not in _IDLE}
        content.calls += read_calls([call], f"a tool call in {where}")


def _add_result(content: Content, part: dict[str, Any], role: str, where: str) -> None:
    if role not in ("user", "tool"):
        raise RowFaultError(f"{where} has a {_RESULT} part", f"{_RESULT} only in a user or tool turn")
    if content.text:
        raise RowRefusedError("a message has a tool result after its text", where)
    if part.get("is_error"):
        raise RowRefusedError("a message has a tool result that is marked as an error", where)
    _refuse_unknown(part, {"tool_use_id", "tool_call_id", "content", "is_error"}, where)
    where = f"the tool result in {where}"
    given = "" if part.get("content") is None else part["content"]
    if not isinstance(given, str | list):
        raise RowFaultError(f"{where} is {described(given)}", "a text or a list of parts")
    text = given if isinstance(given, str) else read_parts(given, _RESULT, where).text
    called = part.get("tool_call_id") if part.get("tool_use_id") is None else part["tool_use_id"]
    if not isinstance(called, str | None):
        raise RowFaultError(f"tool_use_id of {where} is {described(called)}", "a text")
    content.results.append(Message("tool", text, tool_call_id=called or None))


def _text_of(part: Any, keys: tuple[str, ...], where: str) -> str:
    if isinstance(part, str):
        return part
    present = [key for key in keys if part.get(key) is not None]
    text = part[present[0]] if len(present) == 1 else None
    if isinstance(text, list) and part.get("type") in _REASONING:  # Mistral's hold text parts of their own
        text = read_parts(text, part["type"], where).text
    if not isinstance(text, str):
        raise RowFaultError(f"a content part of {where} is {described(part)}", f"a text in {' or '.join(keys)}")
    _refuse_unknown(part, set(keys), where)
    return text


def _refuse_unknown(part: dict[str, Any], known: set[str], where: str) -> None:
    extra = sorted(key for key in part.keys() - known - _IDLE if part[key] not in (None, "", [], {}))
    if extra:
        raise RowRefusedError("a content part has a field that training does not use", f"{where}: {', '.join(extra)}")
