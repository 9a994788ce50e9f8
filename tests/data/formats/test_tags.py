"""Keys and roles of a set's own are renamed in every list of turns, and nowhere else."""

from __future__ import annotations

from typing import Any

from fastft.data.conversation import Message
from fastft.data.formats import load_format
from fastft.data.formats.tags import rename_tags, split_columns


def test_the_keys_of_turns_are_told_from_columns() -> None:
    columns = {"conversations": "dialog", "from": "who", "value": "said", "system": "intro"}
    assert split_columns(columns) == (
        {"conversations": "dialog", "system": "intro"},
        {"from": "who", "value": "said"},
    )


def test_turns_are_renamed_to_what_the_format_reads() -> None:
    row = {"conversations": [{"who": "customer", "said": "a"}, {"who": "agent", "said": "b"}], "id": {"who": 1}}
    roles = {"user": ["customer", "caller"], "assistant": "agent"}
    renamed = rename_tags(row, {"from": "who", "value": "said"}, roles)
    assert renamed == {
        "conversations": [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}],
        "id": {"who": 1},
    }
    conversation = load_format("sharegpt").convert(renamed, "r")
    assert conversation.messages == (Message("user", "a"), Message("assistant", "b"))


def test_nested_turns_and_single_ones_are_renamed() -> None:
    row: dict[str, Any] = {"prompt": [[{"who": "u", "content": "a"}]], "chosen": {"who": "b", "content": "c"}}
    assert rename_tags(row, {"role": "who"}, {"user": "u", "assistant": "b"}) == {
        "prompt": [[{"role": "user", "content": "a"}]],
        "chosen": {"role": "assistant", "content": "c"},
    }


def test_what_is_no_list_of_turns_stays() -> None:
    row = {"messages": "who", "prompt": 3, "chosen": [None, "who"], "role": "u"}
    assert rename_tags(row, {"role": "who"}, {"user": "u"}) == row
    assert rename_tags(row, {}, {}) is row
