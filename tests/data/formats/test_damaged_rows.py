"""Rows damaged at random: each is converted with every text kept, or named as malformed or as left out."""

from __future__ import annotations

import copy
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from fastft.data.conversation import Conversation, Message
from fastft.data.faults import RowFaultError, RowRefusedError
from fastft.data.formats import FORMATS, Kind, choose_format, load_format
from fastft.data.sources import Row
from fastft.errors import DatasetError

COUNT = 2000
ALL: tuple[Kind, ...] = ("conversation", "preference", "unpaired", "prompt")
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"x": [1, {"y": "z"}]}}}
CHAT = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": [{"type": "text", "text": "a"}]},
    {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "t"}, {"type": "tool_use", "id": "i", "name": "f", "input": {}}],
    },
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "i", "content": [{"text": "r"}]}]},
    {"role": "assistant", "content": "", "tool_calls": [CALL], "weight": 0},
    {"role": "tool", "content": "r", "name": "f", "tool_call_id": "c"},
    {"role": "assistant", "content": "b", "reasoning_content": "w", "train": True},
]
TURNS = [
    {"from": "human", "value": "a"},
    {"from": "function_call", "value": json.dumps({"name": "f", "arguments": {}})},
    {"from": "observation", "value": "r"},
    {"from": "gpt", "value": "b", "loss": 1},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
SOUND: dict[str, list[dict[str, Any]]] = {
    "messages": [{"messages": CHAT, "tools": TOOLS}, {"messages": [CHAT[1:]], "system": "s"}],
    "sharegpt": [{"conversations": TURNS, "tools": json.dumps(TOOLS)}, {"conversations": CHAT}],
    "alpaca": [{"instruction": "a", "input": "i", "output": "b", "history": [["q", "w"]], "system": "s"}],
    "prompt_completion": [{"prompt": "a", "completion": "b"}, {"prompt": CHAT[:2], "completion": CHAT[2:3]}],
    "text": [{"text": "a"}],
    "preference": [
        {"prompt": "a", "chosen": "b", "rejected": "c", "tools": TOOLS},
        {"chosen": CHAT, "rejected": [*CHAT[:-1], {"role": "assistant", "content": "c"}]},
        {"conversations": TURNS[:1], "chosen": TURNS[-1], "rejected": {"from": "gpt", "value": "c"}},
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
        {"instruction": "a", "input": "i", "history": [["q", "w"]], "chosen": "b", "rejected": "c"},
    ],
    "unpaired_preference": [{"messages": CHAT, "label": True}, {"prompt": "a", "completion": "b", "label": "false"}],
    "prompt_only": [{"prompt": "a", "answer": 1}, {"prompt": CHAT[:2], "system": None}],
}
JUNK: list[Any] = [None, True, 0, 1, -3, 0.5, float("nan"), "", "x", " ", "[", "[1]", "{}", "\n\nHuman:", [], {}]
JUNK += [[[]], [None], [{}], ["x"], {"x": 1}, {"role": []}, [{"role": {}, "content": 3}], [{"from": [], "value": {}}]]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in `value`."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def damaged(rng: random.Random, row: dict[str, Any]) -> dict[str, Any]:
    """`row` with one or two values replaced, removed, renamed or doubled."""
    row = copy.deepcopy(row)
    for _ in range(rng.randrange(1, 3)):
        if not row:
            break
        container, key = rng.choice(list(places(row)))
        kind = rng.randrange(4)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[rng.choice(["x", "role", "content", "type", "text", "weight", "function"])] = container.pop(key)
        elif kind == 2 and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        else:
            container[key] = copy.deepcopy(rng.choice(JUNK))
    return row


_FIXED = {"role", "from", "type", "label"}


def marked(value: Any, numbers: Iterator[int]) -> Any:
    """`value` with a mark of its own in every free text."""
    if isinstance(value, dict):
        return {key: item if key in _FIXED else marked(item, numbers) for key, item in value.items()}
    if isinstance(value, list):
        return [marked(item, numbers) for item in value]
    return f"{value}«{next(numbers)}»" if isinstance(value, str) and value[:1] not in ("[", "{") else value


def marks(row: dict[str, Any], columns: tuple[str, ...]) -> set[str]:
    read = {column: value for column, value in row.items() if column in columns}
    return set(re.findall("«[0-9]+»", json.dumps(read, ensure_ascii=False)))


def check_sound(conversation: Conversation) -> None:
    """What later stages rely on."""
    assert all(isinstance(message, Message) for message in conversation.turns())
    for message in conversation.turns():
        assert message.role in ("system", "user", "assistant", "tool")
        assert all(isinstance(text, str) for text in message.texts())
        assert message.weight in (0, 1)
        for field in (message.name, message.tool_call_id, message.reasoning_content):
            assert field is None or isinstance(field, str)
    assert all(isinstance(tool["function"]["name"], str) for tool in conversation.tools)


def outcome(name: str, row: dict[str, Any]) -> tuple[str, Any]:
    try:
        return "converted", load_format(name).convert(row, "r")
    except RowFaultError as error:
        return "malformed", error.found and error.expected
    except RowRefusedError as error:
        return "left out", error.reason


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_row_is_converted_or_named(name: str) -> None:
    rng, chosen, outcomes = random.Random(11), load_format(name), Counter()
    for _ in range(COUNT):
        row = damaged(rng, marked(rng.choice(SOUND[name]), count()))
        kind, value = outcome(name, row)
        outcomes[kind] += 1
        assert value
        if kind == "converted":
            check_sound(value)
            assert marks(chosen.to_row(value), chosen.COLUMNS) == marks(row, chosen.COLUMNS)
            assert chosen.convert(chosen.to_row(value), value.place) == value
    assert outcomes["malformed"] > COUNT // 20
    assert outcomes["converted"] > COUNT // 20


def test_detection_of_damaged_rows_gives_a_format_or_says_why_not() -> None:
    rng, refused = random.Random(12), 0
    for _ in range(COUNT):
        rows = [Row(damaged(rng, rng.choice(SOUND[rng.choice(list(SOUND))])), f"x:{n}") for n in range(3)]
        try:
            assert choose_format(rows, "auto", "x", kinds=ALL) in FORMATS
        except DatasetError as error:
            refused += error.message.startswith("x: ") and bool(error.hint)
            continue
    assert refused > COUNT // 20
