"""`preview`: what will be trained on, as it will be trained on, for a person to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastft.checking import check
from fastft.errors import DatasetError, RecipeError

if TYPE_CHECKING:
    from typing import Any

    from rich.text import Text

    from fastft.checking import CheckReport
    from fastft.data.conversation import Example
    from fastft.data.packing import Packing
    from fastft.data.preview import Section
    from fastft.recipe.schema import Recipe

LEGEND = "⟦learned⟧, the rest is only read · ↵ line break, · space, → tab at an edge · ⟨U+…⟩ a character not to be seen"


@dataclass(frozen=True, slots=True)
class Preview:
    """Examples, a row or packed sequences, ready to be drawn as text or as a page."""

    title: str
    facts: tuple[str, ...]
    sections: tuple[Section, ...]

    def text(self, *, ids: bool = False) -> Text:
        """For a terminal; `ids` puts each token's id behind it."""
        from rich.text import Text

        parts = [Text(self.title, style="bold cyan"), *(Text(fact, style="dim") for fact in self.facts)]
        for section in self.sections:
            parts += [Text(""), *_section_text(section, ids=ids)]
        return Text("\n").join(parts)

    def html(self, *, ids: bool = False) -> str:
        """A page of its own, with everything that comes from data escaped."""
        from fastft.data.preview_html import page

        return page(self.title, self.facts, self.sections, ids=ids)


def preview_recipe(
    source: Path | str | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    *,
    count: int = 3,
    row: int | str | None = None,
    packed: bool = False,
) -> Preview:
    """The first `count` examples; with `row`, what became of that row; with `packed`, sequences as they are packed.

    `row` is a number (counted from 1, as the source is read) or a place ("chats.jsonl:17"). With `packed` and `row`,
    the sequences that hold the row are shown. Writes nothing, and imports neither torch nor unsloth.

    Raises RecipeError, DatasetError or ModelError as `check` does, and DatasetError if there is no such row.
    """
    from fastft.data.packing import pack_lengths

    if count < 1:
        raise RecipeError(f"a preview of {count} examples shows nothing", hint="Ask for at least one.")
    report = check(source, overrides)
    facts = [report.data.audit.summary(), LEGEND]
    if packed:
        packing = pack_lengths(report.data.train.lengths(), report.data.audit.max_length)
        facts.append(f"{packing.sequences:,} packed sequences, {packing.efficiency:.1%} of their positions filled")
        sections = tuple(_packed(report, packing, count, row))
    elif row is not None:
        from fastft.data.preview_row import row_section

        sections = (row_section(report, row),)
    else:
        shown = min(count, len(report.data.train))
        sections = tuple(_single(report, report.data.train[index], index) for index in range(shown))
    title = f"{report.recipe.source or 'recipe'} · {report.recipe.model.model_name}"
    return Preview(title, tuple(facts), sections)


def page_place(path: Path, *, overwrite: bool) -> Path:
    """`path`, if a page may be written there. Raises RecipeError."""
    if path.exists() and not overwrite:
        raise RecipeError(f"{path} exists", hint="Give another name, or --overwrite to replace it.")
    if not path.absolute().parent.is_dir():
        raise RecipeError(f"{path}: there is no folder {path.absolute().parent}", hint="Make it first.")
    return path


def _single(report: CheckReport, example: Example, index: int) -> Section:
    from fastft.data.preview import Section, learned_share, shown

    heading = f"example {index + 1:,} of {len(report.data.train):,}"
    return Section(heading, (), (shown(f"{example.place}: {learned_share(example)}", example, report.tokenizer),))


def _packed(report: CheckReport, packing: Packing, count: int, row: int | str | None) -> Iterator[Section]:
    """The first `count` sequences, or those that hold `row`."""
    from fastft.data.preview_row import find_row

    train = report.data.train
    chosen: Sequence[int] = range(min(count, packing.sequences))
    if row is not None:
        place = find_row(report, row).place
        holding = {index for index, example in enumerate(train) if example.place == place}
        chosen = [number for number, bin in enumerate(packing.documents) if holding.intersection(bin)]
        if not chosen:
            raise DatasetError(
                f"{place} is in no packed sequence: it is not trained on",
                hint="Leave out --packed to see what became of it.",
            )
    for number in chosen:
        heading = f"packed sequence {number + 1:,} of {packing.sequences:,}"
        yield _sequence(report, heading, [train[index] for index in packing.documents[number]])


def _sequence(report: CheckReport, heading: str, documents: Sequence[Example]) -> Section:
    from fastft.data.preview import Section, learned_share, shown

    max_length = report.data.audit.max_length
    parts, start = [], 0
    for number, example in enumerate(documents, 1):
        end = start + len(example.input_ids)
        name = f"document {number} of {len(documents)}, positions {start:,} to {end - 1:,}"
        parts.append(shown(f"{name} · {example.place}: {learned_share(example)}", example, report.tokenizer))
        start = end
    notes = [
        f"{start:,} of {max_length:,} positions are filled; no document sees another, and each begins at position 0"
    ]
    if not report.recipe.training.get("packing"):
        notes.append("training.packing is off in this recipe; this is how training.packing=true would pack it")
    return Section(heading, tuple(notes), tuple(parts))


def _section_text(section: Section, *, ids: bool) -> Iterator[Text]:
    from rich.text import Text

    from fastft.data.preview import draw, fragments

    yield Text(section.heading, style="bold")
    yield from (Text(note, style="yellow") for note in section.notes)
    for shown in section.shown:
        yield Text(f"── {shown.heading}", style="cyan")
        yield from (Text(note, style="yellow") for note in shown.notes)
        yield draw(fragments(shown.pieces, ids=ids))
    if section.source:
        yield Text(section.source, style="dim")
