"""Each format's rows become the conversations they mean, with nothing left out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastft.data.conversation import Conversation, Message
from fastft.data.faults import RowFaultError, RowRefusedError
from fastft.data.formats import FORMATS, choose_format, load_format
from fastft.data.sources import Row
from fastft.errors import DatasetError

WEATHER = {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}}
WRAPPED = {"type": "function", "function": WEATHER}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome", "days": 2}}}
BARE_CALL = {"name": "weather", "arguments": {"city": "Rome", "days": 2}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


PLAIN = (Message("user", "a"), Message("assistant", "b"))
ROWS: dict[str, tuple[str, dict[str, Any], Conversation]] = {
    "messages": ("messages", {"messages": [user("a"), assistant("b")]}, Conversation(PLAIN, "r")),
    "messages as JSON text": (
        "messages",
        {"messages": json.dumps([user("a"), assistant("b")])},
        Conversation(PLAIN, "r"),
    ),
    "developer is system": (
        "messages",
        {"messages": [{"role": "developer", "content": "s"}, user("a"), assistant("b")]},
        Conversation((Message("system", "s"), *PLAIN), "r"),
    ),
    "content parts": (
        "messages",
        {"messages": [user("a"), {"role": "assistant", "content": [{"type": "text", "text": "b"}, {"text": "c"}]}]},
        Conversation((Message("user", "a"), Message("assistant", "bc")), "r"),
    ),
    "absent keys as null, as Parquet gives them": (
        "messages",
        {
            "messages": [user("a") | {"tool_calls": None, "name": None}, assistant("b") | {"weight": None}],
            "tools": None,
        },
        Conversation(PLAIN, "r"),
    ),
    "tools and calls": (
        "messages",
        {
            "tools": [WRAPPED],
            "messages": [
                user("a"),
                {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **CALL}]},
                {"role": "tool", "content": "sunny", "tool_call_id": "c1", "name": "weather"},
                {"role": "assistant", "content": "Sun.", "reasoning_content": "So sunny."},
            ],
        },
        Conversation(
            (
                Message("user", "a"),
                Message("assistant", "", tool_calls=({"id": "c1", **CALL},)),
                Message("tool", "sunny", tool_call_id="c1", name="weather"),
                Message("assistant", "Sun.", reasoning_content="So sunny."),
            ),
            "r",
            tools=(WRAPPED,),
        ),
    ),
    "arguments as JSON text": (
        "messages",
        {
            "messages": [
                user("a"),
                {
                    "role": "assistant",
                    "content": "Wait.",
                    "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Rome", "days": 2}'}}],
                },
            ]
        },
        Conversation((Message("user", "a"), Message("assistant", "Wait.", tool_calls=(CALL,))), "r"),
    ),
    "system column": (
        "messages",
        {"messages": [user("a"), assistant("b")], "system": "s"},
        Conversation((Message("system", "s"), *PLAIN), "r"),
    ),
    "sharegpt": (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        Conversation(PLAIN, "r"),
    ),
    "sharegpt nested, with system column": (
        "sharegpt",
        {"conversations": [[{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]], "system": "s"},
        Conversation((Message("system", "s"), *PLAIN), "r"),
    ),
    "sharegpt with role and content": (
        "sharegpt",
        {"conversations": [user("a"), assistant("b")]},
        Conversation(PLAIN, "r"),
    ),
    "sharegpt with tools": (
        "sharegpt",
        {
            "tools": json.dumps([WEATHER]),
            "conversations": [
                {"from": "human", "value": "a"},
                {"from": "function_call", "value": json.dumps(BARE_CALL)},
                {"from": "observation", "value": '{"sky": "clear"}'},
                {"from": "gpt", "value": "Clear."},
            ],
        },
        Conversation(
            (
                Message("user", "a"),
                Message("assistant", "", tool_calls=(CALL,)),
                Message("tool", '{"sky": "clear"}'),
                Message("assistant", "Clear."),
            ),
            "r",
            tools=(WRAPPED,),
        ),
    ),
    "alpaca": ("alpaca", {"instruction": "a", "input": "", "output": "b"}, Conversation(PLAIN, "r")),
    "alpaca with input, history and system": (
        "alpaca",
        {"instruction": "a", "input": "x", "output": "b", "system": "s", "history": [["q", "w"]]},
        Conversation(
            (
                Message("system", "s"),
                Message("user", "q"),
                Message("assistant", "w"),
                Message("user", "a\nx"),
                Message("assistant", "b"),
            ),
            "r",
        ),
    ),
    "prompt and completion": ("prompt_completion", {"prompt": "a", "completion": "b"}, Conversation(PLAIN, "r")),
    "conversational prompt and completion": (
        "prompt_completion",
        {"prompt": [{"role": "system", "content": "s"}, user("a")], "completion": [assistant("b")]},
        Conversation((Message("system", "s"), *PLAIN), "r"),
    ),
    "text": ("text", {"text": "once\n"}, Conversation((), "r", text="once\n")),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_detected_and_converted(name: str) -> None:
    expected_format, values, conversation = ROWS[name]
    assert choose_format([Row(values, "r")], "auto", "x.jsonl") == expected_format
    assert load_format(expected_format).convert(values, "r") == conversation


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_what_it_needs(name: str) -> None:
    chosen = load_format(name)
    assert chosen.NEEDS
    assert chosen.COLUMNS
    assert not chosen.matches({})


REFUSED = {
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "a message has a content part that is no text",
        "message 1: image_url",
    ),
    "a weight": (
        {"messages": [user("a"), assistant("b") | {"weight": 0}]},
        "a message sets its own weight in training",
        "message 2: weight",
    ),
    "a field nobody reads": (
        {"messages": [user("a"), assistant("b") | {"refusal": "no"}]},
        "a message has a field that training does not use",
        "message 2: refusal",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_training_cannot_express_is_refused_by_name(name: str) -> None:
    values, reason, detail = REFUSED[name]
    with pytest.raises(RowRefusedError) as caught:
        load_format("messages").convert(values, "r")
    assert (caught.value.reason, caught.value.detail) == (reason, detail)


def test_sharegpt_weights_are_refused_by_name() -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "weight": 0.5}]
    with pytest.raises(RowRefusedError, match="a message sets its own weight"):
        load_format("sharegpt").convert({"conversations": turns}, "r")


def test_two_systems_are_a_fault() -> None:
    row = {"messages": [{"role": "system", "content": "x"}, user("a"), assistant("b")], "system": "y"}
    with pytest.raises(RowFaultError, match="a system column and a system turn"):
        load_format("messages").convert(row, "r")


def test_a_named_format_is_taken_even_where_detection_refuses() -> None:
    row = Row({"messages": [user("a"), assistant("b")], "label": True}, "r")
    assert choose_format([row], "messages", "x") == "messages"
    with pytest.raises(DatasetError, match="unpaired preferences"):
        choose_format([row], "auto", "x")


def test_a_label_that_is_no_boolean_is_no_preference() -> None:
    row = Row({"messages": [user("a"), assistant("b")], "label": "sports"}, "r")
    assert choose_format([row], "auto", "x") == "messages"


def test_one_odd_row_does_not_change_the_format() -> None:
    """It is then named as malformed, rather than the whole file being of no format."""
    rows = [Row({"instruction": "a", "output": "b"}, "r1"), Row({"question": "a"}, "r2")]
    assert choose_format(rows, "auto", "x") == "alpaca"
