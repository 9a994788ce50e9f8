"""What became of one row: trained on, held out, left out (and why), or malformed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from typing import TYPE_CHECKING, Any

from fastft.data.account import Account
from fastft.data.convert import Converter
from fastft.data.faults import Dropped
from fastft.data.preferences import rendered_as
from fastft.data.preview import Section, learned_share, shown
from fastft.data.render import Rendered, Renderer
from fastft.data.rows import Row
from fastft.data.sources import Source, sources_of
from fastft.errors import DatasetError, Fault
from fastft.trainers import find_method

if TYPE_CHECKING:
    from fastft.checking import CheckReport
    from fastft.data.conversation import Example

_LONGEST_SOURCE = 4000  # characters of a row that is shown as it was read


@dataclass(frozen=True, slots=True)
class FoundRow:
    """A row, or the fault met in reading it; `name` and `format` are its source's."""

    number: int
    name: str
    format: str
    read: Row | Fault

    @property
    def place(self) -> str:
        return self.read.place if isinstance(self.read, Row) else self.read.where

    def alone(self) -> Source:
        """A source of this row only, so that it can be converted again."""
        return Source(self.name, {}, self.format, _OneRow(self.read))


@dataclass(frozen=True, slots=True)
class _OneRow:
    read: Row | Fault

    def rows(self) -> Iterator[Row | Fault]:
        yield self.read

    def fingerprint(self) -> str:
        return ""


class _Kept(Account):
    """Keeps every reason for which a row is left out, where an Account only counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: list[Dropped] = []

    def lost(self, dropped: Dropped) -> None:
        self.reasons.append(dropped)


def find_row(report: CheckReport, wanted: int | str) -> FoundRow:
    """The row with that number (counted from 1 through all sources) or at that place.

    Raises DatasetError if there is none.
    """
    if isinstance(wanted, str) and wanted.isdecimal():
        wanted = int(wanted)
    number = 0
    for number, row in enumerate(_all_rows(report), 1):
        if wanted in (number, row.place):
            return FoundRow(number, row.name, row.format, row.read)
    raise DatasetError(
        f"{report.data.audit.source} has no row {wanted}: {number:,} were read",
        hint="Give a number from 1, or a place as check prints it, for example chats.jsonl:17.",
    )


def _all_rows(report: CheckReport) -> Iterator[FoundRow]:
    """The rows to train on, then those of a held-out set of its own."""
    sources, held_out = sources_of(report.recipe.data, int(report.arguments["seed"]))
    known = report.data.audit.format
    for source in (*sources, *held_out):
        named = source.format if source.format != "auto" or " + " in known else known
        for read in source.rows():
            yield FoundRow(0, source.name, named, read)


def row_section(report: CheckReport, wanted: int | str) -> Section:
    """What is shown for `fastft preview --row`. Raises DatasetError if there is no such row."""
    row = find_row(report, wanted)
    name = f"row {row.number:,}, {row.place}"
    source = _as_json(row.read.values) if isinstance(row.read, Row) else ""
    try:
        rendered, reasons = _rendered(report, row)
    except DatasetError as error:
        return Section(f"{name}: malformed", tuple(map(str, error.faults or [error.message])), (), source)
    fate, examples = _fate(report, row.place)
    drawn = tuple(
        shown(f"example {number} of {len(examples)}: {learned_share(example)}", example, report.tokenizer)
        for number, example in enumerate(examples, 1)
    )
    told = [f"{drop.reason}: {drop.detail}" if drop.detail else drop.reason for drop in reasons]
    notes = (*told, *_notes(report, row.place, rendered, examples))
    return Section(f"{name}: {fate}", tuple(notes), drawn, source)


def _rendered(report: CheckReport, row: FoundRow) -> tuple[Rendered | None, Sequence[Dropped]]:
    """The row converted and rendered again, alone, and why nothing came of it, or of parts of it.

    Raises DatasetError if it is malformed.
    """
    data, account = report.recipe.data, _Kept()
    kind = find_method(report.recipe.method).kind
    converter = Converter(data, account, kind)
    source = row.alone()
    conversations = list(converter.conversations(source))
    converter.refuse_faults(source, always=True)
    if not conversations:
        return None, account.reasons
    renderer = Renderer(
        report.tokenizer,
        max_length=report.data.audit.max_length,
        train_on=data.train_on,
        truncation=data.truncation,
    )
    rendered = next(rendered_as(kind, renderer, report.tokenizer, conversations, report.data.audit.max_length))
    return rendered, rendered.dropped


def _fate(report: CheckReport, place: str) -> tuple[str, list[Example]]:
    """What became of the row, and its examples as they were prepared."""
    sides: tuple[tuple[str, Iterable[Example]], ...] = (
        ("trained on", report.data.train),
        ("held out", report.data.evaluation),
    )
    for fate, examples in sides:
        # A row's examples lie together.
        found = list(takewhile(lambda e: e.place == place, dropwhile(lambda e: e.place != place, examples)))
        if found:
            return fate, found
    return "left out", []


def _notes(report: CheckReport, place: str, rendered: Rendered | None, examples: Sequence[Example]) -> Iterator[str]:
    if rendered is None:
        return
    if rendered.examples and not examples:
        told = [reason for reason, tally in report.data.audit.dropped.items() if place in tally.places]
        yield told[0] if told else "right by itself, but not chosen: it repeats a row or is beyond its set's share"
    if examples and rendered.split:
        yield "one example an answer: the template writes earlier turns differently once later ones follow"
    if examples and rendered.unanswered:
        turns = "the turn" if rendered.unanswered == 1 else f"the {rendered.unanswered} turns"
        yield f"{turns} after the last answer: not used"


def _as_json(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, indent=2, ensure_ascii=False, default=str)
    more = len(text) - _LONGEST_SOURCE
    return text if more <= 0 else f"{text[:_LONGEST_SOURCE]}\n… {more:,} more characters"
