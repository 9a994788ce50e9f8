"""The format is told from the columns; what is not certain is an error that says what fits and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from fastft.data.formats import Kind, choose_format
from fastft.data.sources import Row
from fastft.errors import DatasetError


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


CHAT = [user("a"), assistant("b")]
PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}


def detected(*rows: dict[str, Any], kinds: Sequence[Kind] = ("conversation",), named: str = "auto") -> str:
    return choose_format([Row(row, f"x:{n}") for n, row in enumerate(rows, 1)], named, "x", kinds=kinds)


def refusal(*rows: dict[str, Any], kinds: Sequence[Kind] = ("conversation",), named: str = "auto") -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        detected(*rows, kinds=kinds, named=named)
    return caught.value


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


ALL: tuple[Kind, ...] = ("conversation", "preference", "unpaired", "prompt")


@pytest.mark.parametrize(
    ("row", "kinds", "name"),
    [
        (PAIR, ("preference",), "preference"),
        ({"chosen": CHAT, "rejected": CHAT}, ("preference",), "preference"),
        ({"messages": CHAT, "chosen": assistant("b"), "rejected": assistant("c")}, ("preference",), "preference"),
        (PAIR, ALL, "preference"),
        (PAIR | {"messages": CHAT}, ("conversation", "preference"), "preference"),
        ({"messages": CHAT, "label": False}, ("unpaired",), "unpaired_preference"),
        ({"messages": CHAT, "label": 1}, ALL, "unpaired_preference"),
        ({"prompt": "a", "completion": "b", "label": "False"}, ("unpaired",), "unpaired_preference"),
        ({"instruction": "a", "output": "b", "label": True}, ("unpaired",), "unpaired_preference"),
        ({"prompt": "a", "answer": "42"}, ("prompt",), "prompt_only"),
        ({"prompt": "a"}, ALL, "prompt_only"),
        ({"prompt": "a", "messages": CHAT}, ("conversation",), "messages"),
        ({"prompt": "a", "messages": CHAT}, ALL, "messages"),
        ({"prompt": "a", "completion": "b"}, ALL, "prompt_completion"),
        ({"messages": CHAT, "label": 3}, ("conversation",), "messages"),
    ],
)
def test_the_kind_the_method_learns_from_is_found(row: dict[str, Any], kinds: Sequence[Kind], name: str) -> None:
    assert detected(row, kinds=kinds) == name


def test_labels_of_0_and_1_are_a_preference_only_if_there_are_no_others() -> None:
    rows = [{"messages": CHAT, "label": label} for label in (0, 1, 2)]
    assert detected(*rows) == "messages"
    assert "make this a set of unpaired preferences" in refusal(*rows[:2]).message
    assert "For sft use a set of good answers" in refusal(*rows[:2]).hint


def test_data_for_another_method_is_told_by_name() -> None:
    error = refusal(PAIR)
    assert error.message == (
        "x: the columns chosen, rejected (first in x:1) make this a set of preference pairs, and method sft does not"
        " tell good answers from bad ones"
    )
    assert error.hint.startswith("It is for methods like DPO.")
    assert "which methods like DPO learn from; this method learns from unpaired preferences" in (
        refusal(PAIR, kinds=("unpaired",)).message
    )
    assert refusal({"messages": CHAT}, kinds=("preference",)).message == (
        "x: the columns messages make this a set of conversations or texts, which methods like SFT learn from;"
        " this method learns from preference pairs"
    )
    error = refusal({"prompt": "a", "answer": "b", "id": 7})
    assert "make this a set of prompts without answers" in error.message
    assert error.hint.splitlines()[0] == (
        "If there are answers, say in which column. Write in the recipe: data.columns: {completion: answer}."
    )


def test_a_named_format_of_another_kind_is_refused() -> None:
    error = refusal(PAIR, named="preference")
    assert error.message == (
        "data.format preference is for preference pairs, which methods like DPO learn from; this method learns from"
        " conversations or texts"
    )
    assert error.hint == "Formats for it are messages, sharegpt, alpaca, prompt_completion, text."


def test_several_formats_are_an_error_that_lists_them() -> None:
    error = refusal({"messages": CHAT, "text": "a"})
    assert error.message == "x: the columns messages, text fit more than one format: messages, text"
    error = refusal({"messages": CHAT}, {"text": "a"})
    assert error.message == "x: the rows are in different formats: messages from x:1; text from x:2"


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        (
            {"dialog": CHAT},
            "dialog holds turns with 'role', 'content'. Write in the recipe: data.columns: {messages: dialog}.",
        ),
        (
            {"messages": [{"from": "human", "value": "a"}]},
            "messages holds turns with 'from', 'value'. Write in the recipe: data.columns: {conversations: messages}.",
        ),
        (
            {"conversations": [{"who": "me", "said": "a"}]},
            "conversations holds objects with 'who', 'said', of which none is known as the speaker (from, role,"
            " speaker) with a text (value, content, text). Say which they are: data.columns: {from: …, value: …}.",
        ),
    ],
)
def test_turns_under_other_names_say_what_to_do(row: dict[str, Any], hint: str) -> None:
    error = refusal(row)
    assert "no known format has the columns" in error.message
    assert error.hint.splitlines()[0] == hint
    assert "sharegpt: conversations: a list of {from, value}" in error.hint


def test_labels_in_words_and_chats_where_texts_are_wanted_are_told_what_they_are() -> None:
    judged = {"prompt": "a", "completion": "b", "label": "good"}
    assert "label is 'good'; expected true or false" in str(refusal(judged, kinds=["unpaired"]))
    told = str(refusal({"messages": CHAT}, named="text"))
    assert "no row has the column text; there are messages" in told
    assert "rows of format messages" in told
