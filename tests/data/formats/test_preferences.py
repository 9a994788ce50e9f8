"""Pairs, labelled answers and prompts: every layout becomes the same prompt and answers, and faults are named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastft.data.conversation import Conversation, Message
from fastft.data.faults import RowFaultError, RowRefusedError
from fastft.data.formats import load_format
from fastft.data.formats.prompt_only import further


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def human(text: str) -> dict[str, Any]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, Any]:
    return {"from": "gpt", "value": text}


SYSTEM = Message("system", "s")
ASKED = (Message("user", "a"),)
LONGER = (Message("user", "q"), Message("assistant", "w"), *ASKED)
GOOD, BAD = (Message("assistant", "b"),), (Message("assistant", "c"),)


def pair(*prompt: Message, **more: Any) -> Conversation:
    return Conversation(prompt, "r", chosen=GOOD, rejected=BAD, **more)


def labelled(label: bool, *prompt: Message) -> Conversation:
    answers = {"chosen": GOOD} if label else {"rejected": GOOD}
    return Conversation(prompt, "r", label=label, **answers)  # pyright: ignore[reportArgumentType]


CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}

ROWS: dict[str, tuple[str, dict[str, Any], Conversation]] = {
    "texts": ("preference", {"prompt": "a", "chosen": "b", "rejected": "c"}, pair(*ASKED)),
    "texts with a system column": (
        "preference",
        {"prompt": "a", "chosen": "b", "rejected": "c", "system": "s"},
        pair(SYSTEM, *ASKED),
    ),
    "messages": (
        "preference",
        {"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("c")]},
        pair(*ASKED),
    ),
    "a text prompt and lists of messages": (
        "preference",
        {"prompt": "a", "chosen": [assistant("b")], "rejected": [assistant("c")]},
        pair(*ASKED),
    ),
    "the prompt inside": (
        "preference",
        {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]},
        pair(*ASKED),
    ),
    "a long prompt inside": (
        "preference",
        {
            "chosen": [user("q"), assistant("w"), user("a"), assistant("b")],
            "rejected": [user("q"), assistant("w"), user("a"), assistant("c")],
        },
        pair(*LONGER),
    ),
    "the prompt inside, and told once more": (
        "preference",
        {
            "prompt": "a",
            "messages": [user("a"), assistant("b")],
            "chosen": [user("a"), assistant("b")],
            "rejected": [user("a"), assistant("c")],
        },
        pair(*ASKED),
    ),
    "sharegpt": (
        "preference",
        {"conversations": [human("q"), gpt("w"), human("a")], "chosen": gpt("b"), "rejected": gpt("c")},
        pair(*LONGER),
    ),
    "sharegpt with lists and a system turn": (
        "preference",
        {
            "conversations": [{"from": "system", "value": "s"}, human("a")],
            "chosen": [gpt("b")],
            "rejected": [gpt("c")],
        },
        pair(SYSTEM, *ASKED),
    ),
    "sharegpt with texts": (
        "preference",
        {"conversations": [human("a")], "chosen": "b", "rejected": "c"},
        pair(*ASKED),
    ),
    "nested lists": (
        "preference",
        {"conversations": [[human("a")]], "chosen": [[gpt("b")]], "rejected": [[gpt("c")]]},
        pair(*ASKED),
    ),
    "alpaca": (
        "preference",
        {"instruction": "a", "input": "x", "history": [["q", "w"]], "chosen": "b", "rejected": "c"},
        pair(Message("user", "q"), Message("assistant", "w"), Message("user", "a\nx")),
    ),
    "transcripts": (
        "preference",
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
        pair(*ASKED),
    ),
    "long transcripts": (
        "preference",
        {
            "chosen": "Human: q\n\nAssistant: w\n\nHuman: a\n\nAssistant: b",
            "rejected": "Human: q\n\nAssistant: w\n\nHuman: a\n\nAssistant: c",
        },
        pair(*LONGER),
    ),
    "a transcript as the prompt": (
        "preference",
        {"prompt": "\n\nHuman: a\n\nAssistant:", "chosen": " b", "rejected": " c"},
        pair(*ASKED),
    ),
    "messages as JSON text": (
        "preference",
        {
            "prompt": json.dumps([user("a")]),
            "chosen": json.dumps([assistant("b")]),
            "rejected": json.dumps([assistant("c")]),
        },
        pair(*ASKED),
    ),
    "tools": (
        "preference",
        {"prompt": "a", "chosen": [assistant("") | {"tool_calls": [CALL]}], "rejected": "c", "tools": [TOOL]},
        Conversation(ASKED, "r", tools=(TOOL,), chosen=(Message("assistant", "", tool_calls=(CALL,)),), rejected=BAD),
    ),
    "kto": ("unpaired_preference", {"messages": [user("a"), assistant("b")], "label": True}, labelled(True, *ASKED)),
    "kto, a bad answer": (
        "unpaired_preference",
        {"messages": [user("q"), assistant("w"), user("a"), assistant("b")], "label": False},
        labelled(False, *LONGER),
    ),
    "kto in sharegpt": (
        "unpaired_preference",
        {"conversations": [human("a"), gpt("b")], "label": 0, "system": "s"},
        labelled(False, SYSTEM, *ASKED),
    ),
    "kto with completions": (
        "unpaired_preference",
        {"prompt": "a", "completion": "b", "label": "true"},
        labelled(True, *ASKED),
    ),
    "kto with lists": (
        "unpaired_preference",
        {"prompt": [user("a")], "completion": [assistant("b")], "label": "False"},
        labelled(False, *ASKED),
    ),
    "kto in alpaca": (
        "unpaired_preference",
        {"instruction": "a", "input": "", "output": "b", "label": 1},
        labelled(True, *ASKED),
    ),
    "prompt": ("prompt_only", {"prompt": "a"}, Conversation(ASKED, "r")),
    "prompt with more": (
        "prompt_only",
        {"prompt": [{"role": "system", "content": "s"}, user("a")], "answer": "42", "input": 7},
        Conversation((SYSTEM, *ASKED), "r"),
    ),
    "prompt with system and tools": (
        "prompt_only",
        {"prompt": "a", "system": "s", "tools": [TOOL]},
        Conversation((SYSTEM, *ASKED), "r", tools=(TOOL,)),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_every_layout_becomes_a_prompt_and_its_answers_and_the_same_row_again(name: str) -> None:
    format_name, row, expected = ROWS[name]
    chosen = load_format(format_name)
    conversation = chosen.convert(row, "r")
    assert chosen.matches(row)
    assert conversation == expected
    assert chosen.to_row(conversation) == row


def test_further_columns_of_a_prompt_are_kept() -> None:
    conversation = load_format("prompt_only").convert({"prompt": "a", "answer": "42", "id": 7}, "r")
    assert further(conversation) == {"answer": "42", "id": 7}


def test_turns_are_those_of_the_prompt_and_of_both_answers() -> None:
    assert list(pair(*ASKED).turns()) == [*ASKED, *GOOD, *BAD]


TEXTS = {"prompt": "a", "chosen": "b", "rejected": "c"}
FAULTS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "the same answer": (
        "preference",
        TEXTS | {"rejected": "b"},
        "chosen and rejected are the same answer",
        "two answers that differ",
    ),
    "the same conversation": (
        "preference",
        {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("b")]},
        "chosen and rejected are the same conversation",
        "two answers that differ",
    ),
    "no rejected": (
        "preference",
        {"prompt": "a", "chosen": "b"},
        "rejected is missing",
        "a text or a list of messages",
    ),
    "chosen is null": (
        "preference",
        TEXTS | {"chosen": None},
        "chosen is nothing (null)",
        "a text or a list of messages",
    ),
    "an empty list": (
        "preference",
        TEXTS | {"chosen": []},
        "in chosen, the list of turns is empty",
        "at least one turn",
    ),
    "several answers": (
        "preference",
        TEXTS | {"chosen": [[assistant("b")], [assistant("c")]]},
        "chosen holds 2 conversations in one row",
        "one conversation a row",
    ),
    "an answer of the user's": (
        "preference",
        TEXTS | {"rejected": [user("c")]},
        "rejected begins with a user turn",
        "an answer: an assistant turn",
    ),
    "an answer that ends with the user": (
        "preference",
        TEXTS | {"chosen": [assistant("b"), user("c")]},
        "chosen ends with a user turn",
        "an answer: an assistant turn",
    ),
    "no prompt": (
        "preference",
        {"chosen": "b", "rejected": "c"},
        "there is no prompt, and chosen is a plain text",
        "a prompt in prompt, conversations, messages, instruction, or two whole conversations in chosen and rejected",
    ),
    "no prompt before turns": (
        "preference",
        {"chosen": [assistant("b")], "rejected": [assistant("c")]},
        "there is no prompt, and chosen begins with an assistant turn",
        "a prompt in prompt, conversations, messages, instruction, or two whole conversations in chosen and rejected",
    ),
    "prompts that differ": (
        "preference",
        {"chosen": [user("a"), assistant("b")], "rejected": [user("x"), assistant("c")]},
        "chosen and rejected differ before the answer: message 1 of chosen is a user turn",
        "the same messages in both, up to an assistant turn",
    ),
    "one is the other's beginning": (
        "preference",
        {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("b"), user("c"), assistant("d")]},
        "chosen is only the beginning of the other conversation",
        "an answer of its own",
    ),
    "two prompts": (
        "preference",
        TEXTS | {"messages": [user("x")]},
        "messages is not the prompt that the row begins with",
        "one prompt",
    ),
    "an input without instruction": ("preference", TEXTS | {"input": "x"}, "input without instruction", "both"),
    "a prompt that ends with an answer": (
        "preference",
        {"conversations": [human("a"), gpt("b")], "chosen": gpt("c"), "rejected": gpt("d")},
        "the prompt's last turn is of the assistant",
        "a user or tool turn, which the answer follows",
    ),
    "an unknown role in an answer": (
        "preference",
        TEXTS | {"chosen": {"from": "narrator", "value": "b"}},
        "in chosen, turn 1 is from 'narrator'",
        "one of system, human, user, gpt, assistant, chatgpt, bing, bard, model, function_call, observation, tool,"
        " function_response",
    ),
    "two systems": (
        "preference",
        {
            "conversations": [{"from": "system", "value": "s"}, human("a")],
            "chosen": "b",
            "rejected": "c",
            "system": "t",
        },
        "a system column and a system turn",
        "one of them",
    ),
    "a label that is a word": (
        "unpaired_preference",
        {"messages": [user("a"), assistant("b")], "label": "good"},
        "label is the text 'good'",
        "true or false in label",
    ),
    "a label that is a score": (
        "unpaired_preference",
        {"messages": [user("a"), assistant("b")], "label": 0.7},
        "label is the number 0.7",
        "true or false in label",
    ),
    "no label": (
        "unpaired_preference",
        {"messages": [user("a"), assistant("b")]},
        "label is missing",
        "true or false in label",
    ),
    "no answer": (
        "unpaired_preference",
        {"messages": [user("a"), assistant("b"), user("c")], "label": True},
        "the last message begins with a user turn",
        "an answer: an assistant turn",
    ),
    "no prompt before the answer": (
        "unpaired_preference",
        {"messages": [assistant("b")], "label": True},
        "messages holds one message",
        "a prompt and its answer",
    ),
    "two answers": (
        "unpaired_preference",
        {"messages": [user("a"), assistant("b")], "completion": "c", "label": True},
        "completion stands beside messages",
        "one answer",
    ),
    "a prompt that is a number": (
        "prompt_only",
        {"prompt": 7},
        "prompt is the number 7",
        "a text or a list of messages",
    ),
    "a prompt with its answer": (
        "prompt_only",
        {"prompt": [user("a"), assistant("b")]},
        "the prompt's last turn is of the assistant",
        "a user or tool turn, which the answer follows",
    ),
    "a prompt of nothing but system": (
        "prompt_only",
        {"prompt": [{"role": "system", "content": "s"}]},
        "the prompt's last turn is of the system",
        "a user or tool turn, which the answer follows",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_malformed_row_says_what_was_found_and_expected(name: str) -> None:
    format_name, row, found, expected = FAULTS[name]
    with pytest.raises(RowFaultError) as caught:
        load_format(format_name).convert(row, "r")
    assert (caught.value.found, caught.value.expected) == (found, expected)


REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "an empty answer": ("preference", TEXTS | {"rejected": " "}, "the rejected answer is empty", ""),
    "an empty prompt": ("preference", TEXTS | {"prompt": ""}, "the prompt is empty", ""),
    "a blank prompt": ("preference", TEXTS | {"prompt": "\n"}, "the prompt is empty", ""),
    "an image in an answer": (
        "preference",
        TEXTS | {"chosen": [{"role": "assistant", "content": [{"type": "image"}]}]},
        "a message has a content part that is no text",
        "chosen: message 1: image",
    ),
    "an empty labelled answer": (
        "unpaired_preference",
        {"messages": [user("a"), assistant("")], "label": True},
        "an answer is empty",
        "the last message",
    ),
    "an empty prompt alone": ("prompt_only", {"prompt": ""}, "the prompt is empty", ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_nothing_can_be_learned_from_is_refused(name: str) -> None:
    format_name, row, reason, detail = REFUSED[name]
    with pytest.raises(RowRefusedError) as caught:
        load_format(format_name).convert(row, "r")
    assert (caught.value.reason, caught.value.detail) == (reason, detail)
