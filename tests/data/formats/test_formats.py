"""Each format's rows become the conversations they mean, with nothing left out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastft.data.conversation import Conversation, Message
from fastft.data.faults import RowFaultError, RowRefusedError
from fastft.data.formats import FORMATS, choose_format, load_format
from fastft.data.sources import Row

WEATHER = {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}}
WRAPPED = {"type": "function", "function": WEATHER}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome", "days": 2}}}
BARE_CALL = {"name": "weather", "arguments": {"city": "Rome", "days": 2}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def parts(role: str, *content: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(content)}


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
    "reasoning and calls as content parts": (
        "messages",
        {
            "messages": [
                user("a"),
                parts(
                    "assistant",
                    {"type": "thinking", "thinking": "hm", "signature": "x"},
                    {"type": "text", "text": "Wait."},
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome", "days": 2}},
                ),
                parts("user", {"type": "tool_result", "tool_use_id": "c1", "content": "sun"}, {"text": "and?"}),
                parts("assistant", {"type": "reasoning", "reasoning": "so"}, {"type": "text", "text": "Sun."}),
            ]
        },
        Conversation(
            (
                Message("user", "a"),
                Message("assistant", "Wait.", tool_calls=({"id": "c1", **CALL},), reasoning_content="hm"),
                Message("tool", "sun", tool_call_id="c1"),
                Message("user", "and?"),
                Message("assistant", "Sun.", reasoning_content="so"),
            ),
            "r",
        ),
    ),
    "reasoning as parts in a part, texts of the Responses API": (
        "messages",
        {
            "messages": [
                parts("user", {"type": "input_text", "text": "a"}),
                parts(
                    "assistant",
                    {"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}]},
                    {"type": "output_text", "text": "b", "annotations": []},
                ),
            ]
        },
        Conversation((Message("user", "a"), Message("assistant", "b", reasoning_content="hm")), "r"),
    ),
    "tools as Anthropic has them": (
        "messages",
        {"messages": [user("a"), assistant("b")], "tools": [{"name": "weather", "input_schema": {"type": "object"}}]},
        Conversation(
            PLAIN, "r", tools=({"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},)
        ),
    ),
    "messages nested once": ("messages", {"messages": [[user("a"), assistant("b")]]}, Conversation(PLAIN, "r")),
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
    "sharegpt with role and value": (
        "sharegpt",
        {"conversations": [{"role": "human", "value": "a"}, {"role": "bing", "value": "b"}]},
        Conversation(PLAIN, "r"),
    ),
    "sharegpt with speaker and text": (
        "sharegpt",
        {"conversations": [{"speaker": "user", "text": "a"}, {"speaker": "assistant", "text": "b"}]},
        Conversation(PLAIN, "r"),
    ),
    "sharegpt calls with role and content": (
        "sharegpt",
        {
            "conversations": [
                user("a"),
                {"role": "function_call", "content": json.dumps(BARE_CALL)},
                {"role": "observation", "content": "sun"},
                assistant("b"),
            ]
        },
        Conversation(
            (
                Message("user", "a"),
                Message("assistant", "", tool_calls=(CALL,)),
                Message("tool", "sun"),
                Message("assistant", "b"),
            ),
            "r",
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


@pytest.mark.parametrize("name", ROWS)
def test_rows_survive_being_converted(name: str) -> None:
    """Row -> conversation -> row -> conversation: whatever the spelling, the meaning is the same."""
    format_name, values, conversation = ROWS[name]
    chosen = load_format(format_name)
    written = chosen.to_row(chosen.convert(values, "r"))
    assert chosen.convert(written, "r") == conversation
    assert chosen.to_row(chosen.convert(written, "r")) == written


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
    "a fractional weight": (
        {"messages": [user("a"), assistant("b") | {"weight": 0.5}]},
        "a message has a fractional weight, which the loss can't take",
        "message 2: 0.5",
    ),
    "a weight above one": (
        {"messages": [user("a"), assistant("b") | {"loss": 2}]},
        "a message has a fractional weight, which the loss can't take",
        "message 2: 2",
    ),
    "reasoning after the text": (
        {"messages": [user("a"), parts("assistant", {"text": "b"}, {"type": "thinking", "thinking": "c"})]},
        "a message has reasoning after its text",
        "message 2",
    ),
    "text after a tool call": (
        {"messages": [user("a"), parts("assistant", {"type": "tool_use", "name": "f", "input": {}}, {"text": "b"})]},
        "a message has text after its tool calls",
        "message 2",
    ),
    "a tool result after text": (
        {"messages": [parts("user", {"text": "a"}, {"type": "tool_result", "content": "b"}), assistant("c")]},
        "a message has a tool result after its text",
        "message 1",
    ),
    "a tool result that failed": (
        {"messages": [parts("user", {"type": "tool_result", "content": "b", "is_error": True}), assistant("c")]},
        "a message has a tool result that is marked as an error",
        "message 1",
    ),
    "a field of a part": (
        {"messages": [user("a"), parts("assistant", {"type": "text", "text": "b", "citations": ["c"]})]},
        "a content part has a field that training does not use",
        "message 2: citations",
    ),
    "a field of a tool call": (
        {"messages": [user("a"), assistant("") | {"tool_calls": [BARE_CALL | {"result": "sun"}]}]},
        "a tool call has a field that training does not use",
        "tool_calls of message 2: result",
    ),
    "a tool call of another type": (
        {"messages": [user("a"), assistant("") | {"tool_calls": [{"type": "custom", "function": {"name": "f"}}]}]},
        "a tool call is of a type that templates don't write",
        "tool_calls of message 2: custom",
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


def test_sharegpt_refuses_what_it_cannot_express() -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "weight": 0.5}]
    with pytest.raises(RowRefusedError, match="a message has a fractional weight") as caught:
        load_format("sharegpt").convert({"conversations": turns}, "r")
    assert caught.value.detail == "turn 2: 0.5"
    turns[1] = {"from": "gpt", "value": "b", "likes": 3}
    with pytest.raises(RowRefusedError, match="a message has a field that training does not use"):
        load_format("sharegpt").convert({"conversations": turns}, "r")


@pytest.mark.parametrize("key", ["weight", "train", "loss", "trainable"])
@pytest.mark.parametrize(("value", "weight"), [(True, 1.0), (False, 0.0), (1, 1.0), (0, 0.0), (0.0, 0.0), (None, 1.0)])
def test_weights_are_kept_and_templates_never_see_them(key: str, value: Any, weight: float) -> None:
    rows = {
        "messages": {"messages": [user("a"), assistant("b") | {key: value}]},
        "sharegpt": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", key: value}]},
    }
    for name, row in rows.items():
        conversation = load_format(name).convert(row, "r")
        assert [message.weight for message in conversation.messages] == [1.0, weight]
        assert conversation.as_dicts() == [user("a"), assistant("b")]
        written = load_format(name).to_row(conversation)
        assert written == (row if value is not None else load_format(name).to_row(Conversation(PLAIN, "r")))


FAULTS = {
    "a weight that is a text": (
        "messages",
        {"messages": [user("a"), assistant("b") | {"train": "yes"}]},
        "train of message 2 is the text 'yes'",
    ),
    "a negative weight": (
        "messages",
        {"messages": [user("a"), assistant("b") | {"weight": -1}]},
        "weight of message 2 is the number -1",
    ),
    "weights that differ": (
        "messages",
        {"messages": [user("a"), assistant("b") | {"weight": 0, "train": True}]},
        "message 2 has weight the number 0 and train the boolean true",
    ),
    "two conversations in one row": (
        "sharegpt",
        {"conversations": [[{"from": "human", "value": "a"}], [{"from": "human", "value": "b"}]]},
        "conversations holds 2 conversations in one row",
    ),
    "two lists of messages in one row": (
        "messages",
        {"messages": [[user("a")], [user("b")]]},
        "messages holds 2 conversations in one row",
    ),
    "unknown keys": (
        "sharegpt",
        {"conversations": [{"who": "human", "said": "a"}]},
        "turn 1 is an object with 'who', 'said'",
    ),
    "an unknown speaker": (
        "sharegpt",
        {"conversations": [{"speaker": "narrator", "text": "a"}]},
        "turn 1 is from 'narrator'",
    ),
    "thinking of the user": (
        "messages",
        {"messages": [parts("user", {"type": "thinking", "thinking": "a"})]},
        "message 1 has a thinking part",
    ),
    "a thinking part without text": (
        "messages",
        {"messages": [user("a"), parts("assistant", {"type": "thinking"})]},
        "a content part of message 2 is an object with 'type'",
    ),
    "a tool result of the assistant": (
        "messages",
        {"messages": [parts("assistant", {"type": "tool_result", "content": "a"})]},
        "message 1 has a tool_result part",
    ),
    "calls in two places that differ": (
        "messages",
        {"messages": [user("a"), assistant("") | {"tool_calls": [CALL], "function_call": {"name": "f"}}]},
        "message 2 has tool calls in 2 places that differ",
    ),
    "reasoning in two places that differ": (
        "messages",
        {"messages": [user("a"), assistant("b") | {"reasoning_content": "x", "thinking": "y"}]},
        "message 2 has reasoning in 2 places that differ",
    ),
    "arguments twice": (
        "messages",
        {"messages": [user("a"), assistant("") | {"tool_calls": [BARE_CALL | {"input": {}}]}]},
        "tool_calls of message 2 has arguments and input",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_malformed_row_says_what_was_found(name: str) -> None:
    format_name, row, found = FAULTS[name]
    with pytest.raises(RowFaultError) as caught:
        load_format(format_name).convert(row, "r")
    assert caught.value.found == found
    assert caught.value.expected


def test_two_systems_are_a_fault() -> None:
    row = {"messages": [{"role": "system", "content": "x"}, user("a"), assistant("b")], "system": "y"}
    with pytest.raises(RowFaultError, match="a system column and a system turn"):
        load_format("messages").convert(row, "r")
