"""Which format rows are in, told from their columns. What is not certain is an error that lists the candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from fastft.data.formats import FORMATS, Kind, load_format
from fastft.data.formats.sharegpt import SPEAKERS, TEXTS
from fastft.data.rows import Row
from fastft.errors import DatasetError

_KINDS: dict[Kind, str] = {
    "conversation": "conversations or texts",
    "preference": "preference pairs",
    "unpaired": "unpaired preferences",
    "prompt": "prompts without answers",
}
_LEARNED_BY: dict[Kind, str] = {
    "conversation": "methods like SFT",
    "preference": "methods like DPO",
    "unpaired": "methods like KTO",
    "prompt": "methods like GRPO",
}
_READ = ("prompt", "system", "tools")


def require_kind(named: str, kinds: Sequence[Kind]) -> None:
    """Raises DatasetError if the format named in the recipe is not for this method."""
    kind = load_format(named).KIND
    if kind not in kinds:
        raise DatasetError(
            f"data.format {named} is for {_KINDS[kind]}, which {_LEARNED_BY[kind]} learn from; this method learns from"
            f" {_wanted(kinds)}",
            hint=f"Formats for it are {', '.join(_names(kinds))}.",
        )


def detect(rows: Sequence[Row], source: str, kinds: Sequence[Kind]) -> str:
    """The one format of `kinds` that all rows are in, or most where the others are in none. Raises DatasetError."""
    _refuse_marked(rows, source, kinds)
    names = _narrowed(rows, _names(kinds))
    fits = {name: [row for row in rows if load_format(name).matches(row.values)] for name in names}
    whole = [name for name, fitting in fits.items() if len(fitting) == len(rows)]
    some = [name for name, fitting in fits.items() if fitting]
    candidates = whole or some
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise _nothing_fits(rows, source, kinds)
    if whole:
        raise DatasetError(
            f"{source}: the columns {_columns(rows)} fit more than one format: {', '.join(candidates)}",
            hint="Name the one to train on in data.format.",
        )
    first = "; ".join(f"{name} from {fits[name][0].place}" for name in some)
    raise DatasetError(
        f"{source}: the rows are in different formats: {first}",
        hint="Split the file by format, or name one in data.format: rows that are not in it are then told, "
        "and left out with data.on_error: skip.",
    )


def no_texts(rows: Sequence[Row], source: str) -> DatasetError:
    """What to say where raw text was expected, as method pretrain does, and no row has any."""
    fitting = [name for name in FORMATS if name != "text" and _fits_all(rows, name)]
    told = f" These are rows of format {fitting[0]}: see method sft, and what docs/methods.md says." if fitting else ""
    return DatasetError(
        f"{source}: no row has the column text; there are {_columns(rows)}",
        hint=f"Raw text stands in text, or in another column by data.columns: {{text: NAME}}.{told}",
    )


def _refuse_marked(rows: Sequence[Row], source: str, kinds: Sequence[Kind]) -> None:
    """Rows that tell good answers from bad ones, for a method that doesn't.

    Without this, an answer that was recorded as a bad one would be trained on as a good one.
    """
    for name in ("preference", "unpaired_preference"):
        kind = load_format(name).KIND
        marked = [] if kind in kinds else _marked(rows, name)
        if not marked:
            continue
        columns = ("chosen", "rejected") if name == "preference" else _label_columns(marked[0])
        told = f"{source}: the columns {', '.join(sorted(columns))} (first in {marked[0].place}) make this a set of"
        if "conversation" in kinds:
            raise DatasetError(
                f"{told} {_KINDS[kind]}, and method sft does not tell good answers from bad ones",
                hint=f"It is for {_LEARNED_BY[kind]}. For sft use a set of good answers.",
            )
        raise DatasetError(
            f"{told} {_KINDS[kind]}, which {_LEARNED_BY[kind]} learn from; this method learns from {_wanted(kinds)}",
            hint=f"Formats for it are {', '.join(_names(kinds))}.",
        )


def _marked(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows in a preference format. Labels of 0 and 1 mark a set only if none of its labels is anything else."""
    matches = load_format(name).matches
    marked = [row for row in rows if matches(row.values)]
    if name == "unpaired_preference" and not any(isinstance(row.values["label"], bool) for row in marked):
        return marked if all("label" not in row.values or matches(row.values) for row in rows) else []
    return marked


def _label_columns(row: Row) -> list[str]:
    known = ("label", "messages", "conversations", "prompt", "completion", "instruction", "output")
    return [column for column in known if row.values.get(column) is not None]


def _narrowed(rows: Sequence[Row], names: Sequence[str]) -> Sequence[str]:
    """Without the formats that fit only because they read fewer columns of the same row."""
    for name in ("preference", "unpaired_preference"):
        if name in names and _marked(rows, name):
            return [name]
    others = [name for name in names if name != "prompt_only"]
    fits = any(load_format(name).matches(row.values) for name in others for row in rows)
    return others if fits else names


def _nothing_fits(rows: Sequence[Row], source: str, kinds: Sequence[Kind]) -> DatasetError:
    other: list[Kind] = [load_format(name).KIND for name in FORMATS if _fits_all(rows, name)]
    told = f"{source}: no known format has the columns {_columns(rows)}"
    if other:
        told = (
            f"{source}: the columns {_columns(rows)} make this a set of {_KINDS[other[0]]}, which"
            f" {_LEARNED_BY[other[0]]} learn from; this method learns from {_wanted(kinds)}"
        )
    known = "\n".join(f"  {name}: {load_format(name).NEEDS}" for name in _names(kinds))
    mapped = "Other column names are mapped in data.columns, for example {output: answer}."
    hints = [
        *(_label_hints(rows[0]) if "unpaired" in kinds else ()),
        *(_answer_hints(rows[0]) if "prompt" in other[:1] else ()),
        *_turn_hints(rows[0]),
    ]
    return DatasetError(told, hint="\n".join([*hints, f"Known formats:\n{known}\n{mapped}"]))


def _label_hints(row: Row) -> Iterator[str]:
    """Judged answers whose label is in words that could mean anything."""
    if (label := row.values.get("label")) is not None and not isinstance(label, bool):
        yield f"label is {label!r}; expected true or false (also 1 and 0, or these as text)."


def _answer_hints(row: Row) -> Iterator[str]:
    """Prompts whose answers may stand in a column of another name."""
    texts = [column for column, value in row.values.items() if isinstance(value, str) and column not in _READ]
    if texts:
        which = " or ".join(f"{{completion: {column}}}" for column in texts[:3])
        yield f"If there are answers, say in which column. Write in the recipe: data.columns: {which}."


def _turn_hints(row: Row) -> Iterator[str]:
    """What to do about columns that hold turns under a name, or with keys, that no format has."""
    for column, value in row.values.items():
        turn = _first_turn(value)
        keys = ", ".join(map(repr, turn))
        speakers, texts = ([key for key in known if key in turn] for known in (SPEAKERS, TEXTS))
        if speakers and texts:
            name = "messages" if (speakers[0], texts[0]) == ("role", "content") else "conversations"
            if column == name:
                continue  # it is read under this name already, by formats of another kind
            yield f"{column} holds turns with {keys}. Write in the recipe: data.columns: {{{name}: {column}}}."
        elif len(turn) > 1 and column in ("messages", "conversations"):
            yield (
                f"{column} holds objects with {keys}, of which none is known as the speaker ({', '.join(SPEAKERS)})"
                f" with a text ({', '.join(TEXTS)}). Say which they are: data.columns: {{from: …, value: …}}."
            )


def _first_turn(value: Any) -> dict[str, Any]:
    while isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, dict) else {}


def _fits_all(rows: Sequence[Row], name: str) -> bool:
    return all(load_format(name).matches(row.values) for row in rows)


def _names(kinds: Sequence[Kind]) -> list[str]:
    return [name for name in FORMATS if load_format(name).KIND in kinds]


def _wanted(kinds: Sequence[Kind]) -> str:
    return " or ".join(_KINDS[kind] for kind in kinds)


def _columns(rows: Sequence[Row]) -> str:
    counts = Counter(column for row in rows for column in row.values)
    shown = [name if n == len(rows) else f"{name} ({n} of {len(rows)} rows)" for name, n in counts.most_common(12)]
    return ", ".join(shown) or "(none)"
