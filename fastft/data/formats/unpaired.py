"""Unpaired preferences, as KTO takes them: a conversation or a prompt and its completion, and whether it is good."""

from __future__ import annotations

from typing import Any

from fastft.data.conversation import Conversation, Message
from fastft.data.faults import RowFaultError
from fastft.data.formats.fields import described, system_message
from fastft.data.formats.origin import origin_of, row_of, said, without_system
from fastft.data.formats.prompts import (
    PROMPT_COLUMNS,
    check_answer,
    check_prompt,
    placed,
    prompt_columns,
    read_prompt,
    write_prompts,
)
from fastft.data.formats.sides import read_side, write_side
from fastft.data.formats.tools import read_tools

KIND = "unpaired"
NEEDS = "label (true or false) with messages, conversations, prompt and completion, or instruction and output"
COLUMNS = ("label", "completion", "output", *PROMPT_COLUMNS)

# The column of the prompt, and that of the answer; without one, the answer is the conversation's last turn.
_LAYOUTS = (("prompt", "completion"), ("messages", None), ("conversations", None), ("instruction", "output"))
_LABELS = {"true": True, "false": False, "1": True, "0": False}


def matches(row: dict[str, Any]) -> bool:
    return _label(row) is not None and _layout(row) is not None


def convert(row: dict[str, Any], place: str) -> Conversation:
    """The answer is the conversation's `chosen` if the label is true, else its `rejected`."""
    layout, label = _layout(row), _label(row)
    if layout is None:
        raise RowFaultError("there is no prompt with an answer", NEEDS)
    if label is None:
        found = f"label is {described(row['label'])}" if "label" in row else "label is missing"
        raise RowFaultError(found, "true or false in label")
    prompt, answer, spelled = _sides(row, *layout)
    origin = origin_of(
        row,
        COLUMNS,
        answer=layout[1],
        spelled=spelled,
        prompts=placed(row, prompt_columns(row), [*prompt, *answer]),
        input=row.get("input"),
        label=() if isinstance(row["label"], bool) else (row["label"],),
    )
    messages, tools = tuple(system_message(row, prompt)), read_tools(row)
    good, bad = (tuple(answer), ()) if label else ((), tuple(answer))
    return Conversation(messages, place, tools=tools, chosen=good, rejected=bad, label=label, origin=origin)


def to_row(conversation: Conversation) -> dict[str, Any]:
    prompt, answer = without_system(conversation), conversation.chosen or conversation.rejected
    row = write_prompts(conversation, [*prompt, *answer])
    column = said(conversation, "answer")
    if conversation.origin is None or not row:
        row["messages"] = write_side([*prompt, *answer], {"keys": "messages"}, "user")
    elif column:
        row[column] = write_side(answer, said(conversation, "spelled"), "assistant")
    (row["label"],) = said(conversation, "label", (conversation.label,))
    return row_of(conversation, row)


def _label(row: dict[str, Any]) -> bool | None:
    """A boolean, 0 or 1, or one of these as a text (as CSV gives it); None for anything else."""
    value = row.get("label")
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    return _LABELS.get(value.strip().lower()) if isinstance(value, str) else None


def _layout(row: dict[str, Any]) -> tuple[str, str | None] | None:
    def filled(column: str | None) -> bool:
        return column is None or row.get(column) is not None

    return next((layout for layout in _LAYOUTS if all(map(filled, layout))), None)


def _sides(row: dict[str, Any], column: str, answer: str | None) -> tuple[list[Message], list[Message], dict[str, Any]]:
    """(prompt, answer, how the answer's column is spelled)"""
    if beside := [name for name in ("completion", "output") if row.get(name) and name != answer]:
        raise RowFaultError(f"{beside[0]} stands beside {column}", "one answer", "Remove or rename one of them.")
    side = read_prompt(row, column)
    if answer is None:
        *prompt, last = side.messages
        given, spelled = [last], {}
        if not prompt:
            raise RowFaultError(f"{column} holds one message", "a prompt and its answer")
    else:
        read = read_side(row, answer, "assistant", transcripts=False)
        prompt, given, spelled = side.messages, read.messages, read.spelled
    check_answer(given, "the last message" if answer is None else answer)
    check_prompt(prompt)
    return prompt, given, spelled
