"""The data stage: a recipe's `data` section and a tokenizer in, examples to train on and their audit out."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastft.data.audit import Audit, make_audit
from fastft.data.conversation import Conversation, Example
from fastft.data.faults import RowFaultError, RowRefusedError
from fastft.data.formats import choose_format, load_format
from fastft.data.render import TOO_LONG, Dropped, Rendered, Renderer
from fastft.data.sources import Row, load_rows, looks_local, raise_faults, rename_columns
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import DatasetError, Fault

if TYPE_CHECKING:
    from fastft.recipe.schema import DataSection

# A row with one of these filled says something that a model of text can't be shown.
_MEDIA = ("images", "image", "videos", "video", "audios", "audio")


@dataclass(frozen=True, slots=True)
class PreparedData:
    """What is trained on and what is held out; `evaluation_conversations` are those of `evaluation`, in order."""

    train: list[Example]
    evaluation: list[Example]
    evaluation_conversations: list[Conversation]
    audit: Audit


@dataclass(frozen=True, slots=True)
class _Converted:
    """One source's rows as conversations, and what is known of those that are not."""

    source: str
    format: str
    rows: int
    conversations: list[Conversation]
    refused: list[Dropped]
    unused_columns: dict[str, list[str]]


def prepare_data(data: DataSection, tokenizer: ChatTokenizer, *, max_length: int, seed: int) -> PreparedData:
    """Read, convert, split, render and count. `max_length` is in tokens; `seed` picks the held-out rows.

    Raises DatasetError: a source that can't be read, malformed rows (all of them named), a split that leaves nothing,
    or data of which nothing can be learned.
    """
    converted = _convert(data, data.path, data.split)
    train, held_out, extra = _split(data, converted, seed)
    renderer = Renderer(tokenizer, max_length=max_length, train_on=data.train_on, truncation=data.truncation)
    rendered, rendered_held_out = list(renderer.render_all(train)), list(renderer.render_all(held_out))
    sources = [converted, *([extra] if extra else [])]
    audit = make_audit(
        source=" + ".join(source.source for source in sources),
        format=converted.format,
        rows=sum(source.rows for source in sources),
        train=rendered,
        evaluation=rendered_held_out,
        refused=[drop for source in sources for drop in source.refused],
        unused_columns={name: at for source in reversed(sources) for name, at in source.unused_columns.items()},
        max_length=max_length,
        template_sha256=tokenizer.template_sha256,
    )
    _require(rendered, converted, "to train on")
    if data.eval_split is not None:
        _require(rendered_held_out, extra or converted, "to evaluate on")
    return PreparedData(
        train=[example for r in rendered for example in r.examples],
        evaluation=[example for r in rendered_held_out for example in r.examples],
        evaluation_conversations=[r.conversation for r in rendered_held_out if r.examples],
        audit=audit,
    )


def _convert(data: DataSection, path: str, split: str) -> _Converted:
    rows = load_rows(path, name=data.name, split=split, revision=data.revision)
    source = Path(path).name if looks_local(path) else f"{path} ({split})"
    rows = rename_columns(rows, data.columns, source)
    name = choose_format(rows, data.format, source)
    conversations, refused, faults = _conversations(rows, name)
    if faults:
        raise_faults(source, faults, "rows", f"The rows were read as {name}: {load_format(name).NEEDS}.")
    return _Converted(source, name, len(rows), conversations, refused, _unused_columns(rows, name))


def _conversations(rows: Sequence[Row], name: str) -> tuple[list[Conversation], list[Dropped], list[Fault]]:
    chosen = load_format(name)
    conversations, refused, faults = [], [], []
    for row in rows:
        try:
            if media := [column for column in _MEDIA if row.values.get(column)]:
                raise RowRefusedError("the row has media, which a text model can't see", media[0])
            conversation = chosen.convert(row.values, row.place)
            _check_unicode(conversation)
            conversations.append(conversation)
        except RowFaultError as error:
            faults.append(Fault(row.place, error.found, error.expected, error.hint))
        except RowRefusedError as error:
            refused.append(Dropped(row.place, error.reason, error.detail))
    return conversations, refused, faults


def _check_unicode(conversation: Conversation) -> None:
    """Raises RowFaultError for half a surrogate pair: JSON can escape one, but it is no character."""
    texts = [text for message in conversation.messages for text in message.texts()]
    try:
        "".join([conversation.text or "", *texts, json.dumps(conversation.tools, ensure_ascii=False)]).encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(error.object[error.start]):04X}"
        raise RowFaultError(f"a text holds {code}, half of a character", "valid Unicode", "Write it anew.") from error


def _unused_columns(rows: Sequence[Row], name: str) -> dict[str, list[str]]:
    """Columns the format does not read, with the places of the rows that fill them."""
    used = {*load_format(name).COLUMNS, *_MEDIA}
    unused: dict[str, list[str]] = {}
    for row in rows:
        for column, value in row.values.items():
            if column not in used and value not in (None, "", [], {}):
                unused.setdefault(column, []).append(row.place)
    return unused


def _split(
    data: DataSection, converted: _Converted, seed: int
) -> tuple[list[Conversation], list[Conversation], _Converted | None]:
    """(to train on, held out, the held-out rows' own source if they have one)."""
    chosen = data.eval_split
    if chosen is None:
        return converted.conversations, [], None
    if isinstance(chosen, str):
        from_file = looks_local(data.path) or (looks_local(chosen) and Path(chosen).suffix != "")
        extra = _convert(data, chosen, data.split) if from_file else _convert(data, data.path, chosen)
        return converted.conversations, extra.conversations, extra
    train, held_out = hold_out(converted.conversations, chosen, seed, converted.source)
    return train, held_out, None


def hold_out(
    conversations: Sequence[Conversation], wanted: float, seed: int, source: str
) -> tuple[list[Conversation], list[Conversation]]:
    """(rest, held out), both in the order of the file. `wanted` is a share below 1, or a number of rows.

    The same seed and number of rows give the same split. Raises DatasetError if nothing would be left to train on.
    """
    total = len(conversations)
    count = max(1, round(wanted * total)) if isinstance(wanted, float) and wanted < 1 else int(wanted)
    if count >= total:
        raise DatasetError(
            f"{source}: data.eval_split holds out {count:,} of {total:,} usable rows, which leaves none to train on",
            hint="Lower data.eval_split, or give a file of its own.",
        )
    chosen = set(random.Random(seed).sample(range(total), count))
    return (
        [c for i, c in enumerate(conversations) if i not in chosen],
        [conversations[i] for i in sorted(chosen)],
    )


def _require(rendered: Sequence[Rendered], converted: _Converted, purpose: str) -> None:
    """Raises DatasetError with every reason and a row of each if no example came of it."""
    if any(r.examples for r in rendered):
        return
    drops = [*converted.refused, *(drop for r in rendered for drop in r.dropped)]
    first = {drop.reason: drop for drop in reversed(drops)}
    counts = {reason: sum(drop.reason == reason for drop in drops) for reason in first}
    faults = [Fault(drop.place, _why(drop, counts[reason]), "") for reason, drop in first.items()]
    too_long = set(first) == {TOO_LONG}
    raise DatasetError(
        f"{converted.source}: nothing is left {purpose}: "
        + ("the only row was left out" if len(drops) == 1 else f"all {len(drops):,} rows were left out"),
        hint="Raise model.max_seq_length (and training.max_length if it is set), or set data.truncation: keep_end."
        if too_long
        else "See data.train_on, data.truncation, data.chat_template and model.max_seq_length.",
        faults=faults,
    )


def _why(drop: Dropped, rows: int) -> str:
    reason = f"{drop.reason} ({rows:,} {'row' if rows == 1 else 'rows'})"
    return f"{reason}: {drop.detail}" if drop.detail else reason
