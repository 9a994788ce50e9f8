"""ShareGPT: `conversations`, a list of {"from", "value"}, also nested once, with system and tools columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastft.data.conversation import Conversation, Message
from fastft.data.faults import RowFaultError, RowRefusedError
from fastft.data.formats.fields import described, list_field, system_message, text_field
from fastft.data.formats.messages import ROLES, has_turns, read_messages, unnested, write_messages
from fastft.data.formats.origin import origin_of, row_of, said, without_system
from fastft.data.formats.tools import read_calls, read_tools
from fastft.data.formats.weights import WEIGHT_KEYS, read_weight, weight_field

KIND = "conversation"
NEEDS = "conversations: a list of {from, value}"
COLUMNS = ("conversations", "tools", "system")

SPEAKERS = ("from", "role", "speaker")
TEXTS = ("value", "content", "text")
_TAGS = {
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
_USUAL = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}

Keys = tuple[str, str]


def matches(row: dict[str, Any]) -> bool:
    return any(has_turns(row, "conversations", key) for key in SPEAKERS)


def convert(row: dict[str, Any], place: str) -> Conversation:
    given = list_field(row, "conversations", "turns")
    turns = unnested(given, "conversations")
    messages = tuple(system_message(row, read_turns(turns)))
    origin = origin_of(row, COLUMNS, nested=turns is not given, **spelling(turns))
    return Conversation(messages, place, tools=read_tools(row), origin=origin)


def to_row(conversation: Conversation) -> dict[str, Any]:
    turns = write_turns(without_system(conversation), conversation.origin or {})
    return row_of(conversation, {"conversations": [turns] if said(conversation, "nested") else turns})


def read_turns(turns: list[Any], name: str = "turn") -> list[Message]:
    """The messages of a list of turns, spelled as ShareGPT or as `messages`. Raises RowFaultError, RowRefusedError."""
    if not turns:
        raise RowFaultError("the list of turns is empty", "at least one turn")
    keys = _keys(turns)
    if _as_messages(turns, keys):
        return read_messages(turns)
    return [_turn(turn, keys, f"{name} {number}") for number, turn in enumerate(turns, 1)]


def write_turns(messages: Sequence[Message], spelled: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`messages` with the keys and tags that `spelling` gave; as {role, content} where these can't say it all."""
    keys = spelled.get("keys", ("from", "value"))
    plain = all(_is_plain(message) for message in messages)
    if not plain or keys == "messages":
        return write_messages(messages)
    tags = _USUAL | spelled.get("tags", {})
    return [_written(message, keys, tags) | weight_field(message) for message in messages]


def spelling(turns: list[Any]) -> dict[str, Any]:
    """What `write_turns` needs to know of turns that could be read: their keys, and tags other than the usual."""
    keys = _keys(turns)
    if _as_messages(turns, keys):
        return {"keys": "messages"}
    tags: dict[str, str] = {}
    for tag in (turn[keys[0]] for turn in turns if turn[keys[0]] != "function_call"):
        tags.setdefault(_TAGS[tag], tag)
    unusual = {role: tag for role, tag in tags.items() if tag != _USUAL[role]}
    return ({"tags": unusual} if unusual else {}) | ({"keys": keys} if keys != ("from", "value") else {})


def _keys(turns: list[Any]) -> Keys:
    """The keys of speaker and text in the first turn; the usual ones where it has none of the known."""
    first = turns[0] if isinstance(turns[0], dict) else {}
    speaker = next((key for key in SPEAKERS if first.get(key) is not None), "from")
    text = next((key for key in TEXTS if first.get(key) is not None), "content" if speaker == "role" else "value")
    return speaker, text


def _as_messages(turns: list[Any], keys: Keys) -> bool:
    """Whether turns of role and content are to be read as `messages`: not if they have tags that only ShareGPT has."""
    roles = [turn.get("role") for turn in turns if isinstance(turn, dict)]
    tags = {role for role in roles if isinstance(role, str)}
    return keys == ("role", "content") and not any(tag in _TAGS and tag not in ROLES for tag in tags)


def _turn(turn: Any, keys: Keys, where: str) -> Message:
    speaker, text = keys
    if not isinstance(turn, dict) or not isinstance(turn.get(speaker), str):
        raise RowFaultError(f"{where} is {described(turn)}", f"an object with {speaker} and {text}")
    tag = turn[speaker]
    if tag not in _TAGS:
        raise RowFaultError(f"{where} is from {tag!r}", f"one of {', '.join(_TAGS)}")
    known = {speaker, text, *WEIGHT_KEYS}
    if unknown := sorted(key for key in turn.keys() - known if turn[key] not in (None, "", [], {})):
        raise RowRefusedError("a message has a field that training does not use", f"{where}: {', '.join(unknown)}")
    weight, stated = read_weight(turn, where)
    try:
        value = text_field(turn, text)
    except RowFaultError as error:
        raise RowFaultError(f"in {where}, {error.found}", error.expected) from error
    calls = read_calls(value, f"the function_call in {where}") if tag == "function_call" else ()
    return Message(_TAGS[tag], "" if calls else value, tool_calls=calls, weight=weight, weight_as=stated)


def _is_plain(message: Message) -> bool:
    """Whether one turn of a speaker and a text says all of `message`."""
    if message.tool_calls and (message.content or message.role != "assistant"):
        return False
    return not (message.reasoning_content or message.name or message.tool_call_id)


def _written(message: Message, keys: Keys, tags: dict[str, str]) -> dict[str, Any]:
    if not message.tool_calls:
        return {keys[0]: tags[message.role], keys[1]: message.content}
    calls = [({"id": call["id"]} if "id" in call else {}) | call["function"] for call in message.tool_calls]
    value = json.dumps(calls if len(calls) > 1 else calls[0], ensure_ascii=False)
    return {keys[0]: "function_call", keys[1]: value}
