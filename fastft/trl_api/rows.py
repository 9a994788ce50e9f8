"""A script's `datasets.Dataset` as ids and labels: by the machinery that prepares a recipe's data, or left to TRL."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fastft.data.formats import Kind
from fastft.data.origins import InMemory
from fastft.data.prepare import PreparedData, prepare_sources
from fastft.data.sources import Source
from fastft.data.templates import PLAIN, named_template
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import DatasetError
from fastft.recipe.data_section import DataSection

if TYPE_CHECKING:
    from datasets import Dataset

_LOG = logging.getLogger("fastft")
_NO_LIMIT = 2**31 - 1
_HINT = "Repair or remove these rows, e.g. with dataset.filter; the README lists the rows each method learns from."
# A column of these says that the rows were tokenised already, or that only TRL knows what to do with them.
_TOKENISED = ("input_ids", "prompt_ids", "prompt_input_ids", "chosen_ids", "chosen_input_ids", "completion_ids")
_FOR_TRL = ("image", "images", "video", "videos", "audio", "audios", "chat_template_kwargs", "ref_chosen_logps")
_LAYOUTS = ("messages", "conversations", "instruction", "history")  # columns that hold more than a plain text
_PLAIN: Mapping[Kind, tuple[str, ...]] = {
    "conversation": ("prompt", "completion"),
    "preference": ("prompt", "chosen", "rejected"),
    "unpaired": ("prompt", "completion", "chosen", "rejected"),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the rows are for. `max_length` is in tokens, None for no limit."""

    kind: Kind
    max_length: int | None
    truncation: str = "keep_start"
    text_field: str = "text"
    all_of_conversations: bool = False  # every token of a conversation is learned, not the assistant's alone
    all_of_prompts: bool = False  # a prompt is learned as its completion is


def require_answers(dataset: Any, wanted: Wanted, name: str) -> None:
    """Raises DatasetError for rows without the answers that the method compares; TRL would fail at the first one."""
    from datasets import Dataset

    needs = {"preference": {"chosen", "rejected"}, "unpaired": {"completion", "label"}}.get(wanted.kind)
    columns = set(dataset.column_names) if isinstance(dataset, Dataset) else set()
    fits = needs is not None and (needs <= columns or {"chosen", "rejected"} <= columns)  # TRL takes pairs apart
    if needs is None or not columns or columns & {*_TOKENISED, *_FOR_TRL} or fits:
        return
    raise DatasetError(
        f"{name} has the columns {', '.join(sorted(columns))}; expected {' and '.join(sorted(needs))}",
        hint="Rename them with dataset.rename_columns; the README lists the rows each method learns from.",
    )


def is_ours(dataset: Any, wanted: Wanted) -> bool:
    """Whether our preparation is for these rows: conversations, and layouts that TRL doesn't know.

    TRL's plain texts, and rows that are tokenised, are TRL's.
    """
    from datasets import Dataset

    if not isinstance(dataset, Dataset) or not len(dataset):
        return False
    columns = set(dataset.column_names)
    if columns & {*_TOKENISED, *_FOR_TRL}:
        return False
    row = dataset.with_format(None)[0]
    if columns & set(_LAYOUTS[:2]):
        return True
    if wanted.kind == "conversation" and isinstance(row.get(wanted.text_field), str):
        return False
    known = [column for column in _PLAIN[wanted.kind] if column in columns]
    if wanted.kind == "conversation" and {"prompt", "completion"} <= columns and _answers_in_turns(dataset):
        return False
    return bool(columns & set(_LAYOUTS)) or not known or not all(isinstance(row[column], str) for column in known)


def _answers_in_turns(dataset: Dataset) -> bool:
    """TRL learns a completion of several turns whole; `train_on` has no word for that."""
    return any(isinstance(answer, list) and len(answer) > 1 for answer in dataset.with_format(None)["completion"])


def prepare_rows(dataset: Dataset, name: str, tokenizer: Any, wanted: Wanted, seed: int) -> PreparedData:
    """Ids and labels of the rows, what was left out told through the logger "fastft".

    Raises DatasetError that names every broken row, "train_dataset row 17", or if nothing is left.
    """
    columns = set(dataset.column_names)
    for layout in ("messages", "conversations"):  # beside it, TRL reads nothing but the tools
        if wanted.kind == "conversation" and layout in columns:
            dataset = dataset.select_columns([c for c in (layout, "system", "tools") if c in columns])
            break
    data = DataSection.model_validate(
        {"path": name, "train_on": _train_on(columns, wanted), "truncation": wanted.truncation}
    )
    source = Source(name, {}, "auto", InMemory(dataset, name))
    length = wanted.max_length or _NO_LIMIT
    try:
        with TemporaryDirectory() as folder:
            chat = chat_tokenizer(tokenizer, Path(folder))
            prepared = prepare_sources(data, [source], [], chat, max_length=length, seed=seed, kind=wanted.kind)
    except DatasetError as error:
        raise DatasetError(error.message, hint=_HINT, faults=error.faults) from error
    for warning in prepared.audit.warnings:
        _LOG.warning("%s: %s", name, warning)
    return prepared


def _train_on(columns: set[str], wanted: Wanted) -> str:
    if {"prompt", "completion"} <= columns and wanted.kind == "conversation":
        return "all" if wanted.all_of_prompts else "last"
    return "all" if wanted.all_of_conversations else "assistant"


def chat_tokenizer(tokenizer: Any, folder: Path) -> ChatTokenizer:
    """transformers' tokenizer as ours, through its files in `folder`. One without a template gets `plain`.

    Raises ModelError if it has no tokenizer.json, or its template never ends a turn.
    """
    if not tokenizer.chat_template:
        _LOG.warning("the tokenizer has no chat template; conversations are written with fastft's %r", PLAIN)
        tokenizer.chat_template = named_template(PLAIN)
    tokenizer.save_pretrained(str(folder))
    return ChatTokenizer.load(folder)
