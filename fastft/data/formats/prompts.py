"""The prompt of preference data, in any of the layouts data sets have: a text, turns, or instruction and input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastft.data.conversation import Conversation, Message
from fastft.data.faults import RowFaultError, RowRefusedError
from fastft.data.formats.alpaca import read_question, write_question
from fastft.data.formats.origin import said
from fastft.data.formats.sides import Side, read_side, write_side

PROMPTS = ("prompt", "conversations", "messages", "instruction")
PROMPT_COLUMNS = (*PROMPTS, "input", "history", "system", "tools")


def prompt_columns(row: dict[str, Any]) -> list[str]:
    """The filled columns of `row` that hold a prompt, each in a layout of its own.

    Raises RowFaultError for columns that belong to an instruction where there is none.
    """
    beside = [column for column in ("input", "history") if row.get(column)]
    if beside and row.get("instruction") is None:
        raise RowFaultError(f"{beside[0]} without instruction", "both", "Remove or rename the column.")
    return [column for column in PROMPTS if row.get(column) or (column == "instruction" and beside)]


def read_prompt(row: dict[str, Any], column: str) -> Side:
    """Raises RowFaultError, RowRefusedError. The empty turn that ends a transcript ("Assistant:") is no message."""
    if column == "instruction":
        return Side(read_question(row), {"shape": "question"})
    side = read_side(row, column, "user")
    if side.spelled.get("shape") == "transcript" and side.messages[-1] == Message("assistant", ""):
        return Side(side.messages[:-1], side.spelled | {"open": True})
    return side


def placed(row: dict[str, Any], columns: Sequence[str], turns: Sequence[Message]) -> dict[str, Any]:
    """Where the messages of each of `columns` lie in `turns`, the prompt and the answer to it: (spelling, from, to).

    Raises RowFaultError for a column that says anything else: then it can't be known what the model was asked.
    """
    places = {}
    for column in columns:
        side = read_prompt(row, column)
        start = _find(side.messages, turns)
        if start is None:
            raise RowFaultError(
                f"{column} is not the prompt that the row begins with",
                "one prompt",
                f"Remove or rename the column {column}, or name it for what it is in data.columns.",
            )
        places[column] = (side.spelled, start, start + len(side.messages))
    return places


def _find(part: Sequence[Message], turns: Sequence[Message]) -> int | None:
    starts = range(len(turns) - len(part) + 1)
    return next((at for at in starts if list(turns[at : at + len(part)]) == list(part)), None)


def write_prompts(conversation: Conversation, turns: Sequence[Message]) -> dict[str, Any]:
    """The columns that held the prompt; `turns` are the prompt and the answer to it."""
    row: dict[str, Any] = {}
    for column, (spelled, start, stop) in said(conversation, "prompts", {}).items():
        part = turns[start:stop]
        if spelled.get("shape") == "question":
            row |= write_question(conversation, part)
        else:
            opened = [Message("assistant", "")] if spelled.get("open") else []
            row[column] = write_side([*part, *opened], spelled, "user")
    return row


def check_prompt(messages: Sequence[Message]) -> None:
    """Raises RowFaultError where no answer can follow, RowRefusedError where there is nothing to answer."""
    last = messages[-1]
    if last.role not in ("user", "tool"):
        raise RowFaultError(
            f"the prompt's last turn is of the {last.role}", "a user or tool turn, which the answer follows"
        )
    if last.role == "user" and not last.content.strip():
        raise RowRefusedError("the prompt is empty")


def check_answer(messages: Sequence[Message], name: str) -> None:
    """Raises RowFaultError if it is no answer of the assistant's, RowRefusedError if it is empty."""
    for message, verb in ((messages[0], "begins"), (messages[-1], "ends")):
        if message.role != "assistant":
            raise RowFaultError(f"{name} {verb} with a {message.role} turn", "an answer: an assistant turn")
        if not (message.content.strip() or message.tool_calls or message.reasoning_content):
            if name in ("chosen", "rejected"):
                raise RowRefusedError(f"the {name} answer is empty")
            raise RowRefusedError("an answer is empty", name)
