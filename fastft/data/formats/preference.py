"""Preference pairs: `chosen` and `rejected`, two answers to one prompt, or two conversations that begin alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from fastft.data.conversation import Conversation, Message
from fastft.data.faults import RowFaultError, RowRefusedError
from fastft.data.formats.fields import system_message
from fastft.data.formats.origin import origin_of, row_of, said, without_system
from fastft.data.formats.prompts import (
    PROMPT_COLUMNS,
    PROMPTS,
    check_answer,
    check_prompt,
    placed,
    prompt_columns,
    read_prompt,
    write_prompts,
)
from fastft.data.formats.sides import Side, read_side, write_side
from fastft.data.formats.tools import read_tools

KIND = "preference"
NEEDS = "chosen and rejected, with the prompt in prompt, conversations, messages or instruction, or at their beginning"
SIDES = ("chosen", "rejected")
COLUMNS = (*SIDES, *PROMPT_COLUMNS)

Parts = tuple[list[Message], list[Message], list[Message]]  # prompt, chosen, rejected


def matches(row: dict[str, Any]) -> bool:
    return "chosen" in row and "rejected" in row


def convert(row: dict[str, Any], place: str) -> Conversation:
    """The prompt and its two answers. Raises RowFaultError, RowRefusedError."""
    sides = [read_side(row, name, "assistant") for name in SIDES]
    columns = prompt_columns(row)
    whole = not any(side.is_text for side in sides) and all(_begins(side) != "assistant" for side in sides)
    if not whole and not columns:
        raise _no_prompt(row, sides)
    prompt, chosen, rejected = _split(sides) if whole else _explicit(read_prompt(row, columns[0]), sides)
    for name, answer in zip(SIDES, (chosen, rejected), strict=True):
        check_answer(answer, name)
    if chosen == rejected:
        raise RowFaultError("chosen and rejected are the same answer", "two answers that differ")
    check_prompt(prompt)
    origin = origin_of(
        row,
        COLUMNS,
        whole=whole,
        spelled=[side.spelled for side in sides],
        prompts=placed(row, columns, [*prompt, *chosen]),
        input=row.get("input"),
    )
    messages, tools = tuple(system_message(row, prompt)), read_tools(row)
    return Conversation(messages, place, tools=tools, chosen=tuple(chosen), rejected=tuple(rejected), origin=origin)


def to_row(conversation: Conversation) -> dict[str, Any]:
    prompt = without_system(conversation)
    spelled = said(conversation, "spelled", (None, None))
    row = write_prompts(conversation, [*prompt, *conversation.chosen])
    if conversation.origin is None:
        row["prompt"] = write_side(prompt, None, "user")
    for name, how, answer in zip(SIDES, spelled, (conversation.chosen, conversation.rejected), strict=True):
        turns = [*prompt, *answer] if said(conversation, "whole") else answer
        row[name] = write_side(turns, how, "assistant")
    return row_of(conversation, row)


def _begins(side: Side) -> str:
    return side.messages[0].role


def _explicit(prompt: Side, sides: Sequence[Side]) -> Parts:
    """The answers as they are; after a transcript that ends with "Assistant:", without the space that follows it."""
    for side in sides:
        if prompt.spelled.get("open") and side.is_text and side.messages[0].content.startswith(" "):
            side.messages[:] = [Message("assistant", side.messages[0].content[1:])]
            side.spelled["space"] = True
    chosen, rejected = sides
    return prompt.messages, chosen.messages, rejected.messages


def _split(sides: Sequence[Side]) -> Parts:
    """The messages that both conversations begin with are the prompt, the others the answers."""
    chosen, rejected = (side.messages for side in sides)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    if chosen == rejected:
        raise RowFaultError("chosen and rejected are the same conversation", "two answers that differ")
    for name, turns in zip(SIDES, (chosen, rejected), strict=True):
        if shared == len(turns):
            raise RowFaultError(f"{name} is only the beginning of the other conversation", "an answer of its own")
        if turns[shared].role != "assistant":
            raise RowFaultError(
                f"chosen and rejected differ before the answer: message {shared + 1} of {name} is a"
                f" {turns[shared].role} turn",
                "the same messages in both, up to an assistant turn",
            )
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _no_prompt(row: dict[str, Any], sides: Sequence[Side]) -> RowFaultError | RowRefusedError:
    if any(row.get(column) is not None for column in PROMPTS):
        return RowRefusedError("the prompt is empty")
    found = next((f"{name} is a plain text" for name, side in zip(SIDES, sides, strict=True) if side.is_text), "")
    found = found or next(
        f"{name} begins with an assistant turn"
        for name, side in zip(SIDES, sides, strict=True)
        if _begins(side) == "assistant"
    )
    return RowFaultError(
        f"there is no prompt, and {found}",
        f"a prompt in {', '.join(PROMPTS)}, or two whole conversations in chosen and rejected",
        "If the prompt is in another column, name it in data.columns: {prompt: …}.",
    )
