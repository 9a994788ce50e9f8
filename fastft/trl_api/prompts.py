"""Prompts for GRPO and RLOO out of layouts that TRL doesn't know: ShareGPT and alpaca rows."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fastft.data.conversation import Conversation
from fastft.data.faults import RowFaultError, RowRefusedError
from fastft.data.formats.fields import system_message
from fastft.data.formats.prompts import check_prompt, prompt_columns, read_prompt
from fastft.data.rows import raise_faults
from fastft.errors import DatasetError, Fault

if TYPE_CHECKING:
    from datasets import Dataset

_LOG = logging.getLogger("fastft")
_HINT = "Repair or remove these rows, e.g. with dataset.filter."


def with_prompts(dataset: Any, name: str) -> Any:
    """The data set with TRL's column `prompt`, messages, made of the turns before the last answer; other columns stay.

    One that has it is given back as it is. Raises DatasetError that names the broken rows, or if no row is left.
    """
    from datasets import Dataset

    if not isinstance(dataset, Dataset) or "prompt" in dataset.column_names or not len(dataset):
        return dataset
    prompts: dict[int, list[dict[str, Any]]] = {}
    faults: list[Fault] = []
    refused: dict[str, list[str]] = {}
    for index, row in enumerate(dataset.with_format(None)):
        place = f"{name} row {index + 1}"
        try:
            prompts[index] = _prompt(dict(row), place)
        except RowFaultError as error:
            faults.append(Fault(place, error.found, error.expected, error.hint))
        except RowRefusedError as error:
            refused.setdefault(error.reason, []).append(place)
    if faults:
        raise_faults(name, faults, "rows", _HINT)
    for reason, places in refused.items():
        _LOG.warning("%s: left out because %s: %s (the first: %s)", name, reason, f"{len(places):,}", places[0])
    if not prompts:
        raise DatasetError(f"{name}: nothing is left to answer: every row was left out", hint=_HINT)
    return _with_column(dataset, prompts)


def _with_column(dataset: Dataset, prompts: dict[int, list[dict[str, Any]]]) -> Dataset:
    kept = dataset if len(prompts) == len(dataset) else dataset.select(list(prompts))
    return kept.add_column("prompt", list(prompts.values()))  # pyright: ignore[reportCallIssue]


def _prompt(row: dict[str, Any], place: str) -> list[dict[str, Any]]:
    columns = prompt_columns(row)
    if not columns:
        raise RowFaultError("no prompt", "a column prompt, messages, conversations or instruction")
    messages = list(read_prompt(row, columns[0]).messages)
    while messages and messages[-1].role == "assistant":
        messages.pop()
    if not messages:
        raise RowFaultError("a row without a user's turn", "turns that an answer can follow")
    check_prompt(messages)
    return Conversation(tuple(system_message(row, messages)), place).as_dicts()
