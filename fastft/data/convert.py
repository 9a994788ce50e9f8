"""Rows become conversations: the format is told once, each row converted, and what can't be is counted by place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

from fastft.data.account import Account
from fastft.data.conversation import Conversation
from fastft.data.faults import Dropped, RowFaultError, RowRefusedError
from fastft.data.formats import Format, Kind, choose_format, load_format
from fastft.data.readers.json_files import ONE_OBJECT
from fastft.data.rows import Row, raise_faults
from fastft.data.sources import Source, raise_broken
from fastft.data.store import encode
from fastft.errors import DatasetError, Fault

if TYPE_CHECKING:
    from fastft.recipe.data_section import DataSection

_LOOKED_AT = 1000  # rows that the format is told from; later ones must be in the same
_LOOKED_AT_CHARACTERS = 1 << 28  # of those rows, which are held at once
_MOST_FAULTS = 100_000  # broken rows after which a file is given up: it is not what its name says
# A row with one of these filled says something that a model of text can't be shown.
_UNUSED_NAMED, _NAME = 20, 60  # columns that are named, and characters of each
_MEDIA = ("images", "image", "videos", "video", "audios", "audio")


class Converter:
    """Turns the rows of sources into conversations, and tells `account` of every row that becomes none."""

    def __init__(self, data: DataSection, account: Account, kind: Kind = "conversation") -> None:
        self._kind: Kind = kind
        self._account = account
        self._skips = data.on_error == "skip"
        self._deduplicates = data.deduplicate
        self._unused: set[str] = set()  # columns that are named in notes
        self._seen: dict[bytes, str] = {}  # digest of what a row says: its place
        self._faults: list[Fault] = []
        self._formats: dict[str, None] = {}

    @property
    def format(self) -> str:
        """The name of the format, or of those of a mixture."""
        return " + ".join(self._formats)

    def conversations(self, source: Source) -> Iterator[Conversation]:
        """The source's conversations, in order. Once a row is broken (and isn't to be skipped) only faults are sought.

        Raises DatasetError if the source is empty, or no format or more than one fits it.
        """
        self._faults = []
        items = source.rows()
        first = _first(items)
        rows = [item for item in first if isinstance(item, Row)]
        if not rows:
            self._faults = [item for item in first if isinstance(item, Fault)]
            self.refuse_faults(source, always=True)
        name = choose_format(rows, source.format, source.name, kinds=[self._kind])
        self._formats[name] = None
        label = f"{source.name} ({name})"
        shapes = {frozenset(row.values) for row in rows}
        for item in chain(first, items):
            self._account.rows += 1
            self._account.sources[label] = self._account.sources.get(label, 0) + 1
            if isinstance(item, Row) and source.format == "auto" and frozenset(item.values) not in shapes:
                shapes.add(frozenset(item.values))
                _require_same_format(item, name, source, self._kind)
            conversation = self._take(item, load_format(name))
            if conversation is not None and (self._skips or not self._faults):
                yield conversation
            if len(self._faults) > _MOST_FAULTS:
                self.refuse_faults(source, always=True)

    def refuse_faults(self, source: Source, *, always: bool = False) -> None:
        """Raises DatasetError that names every broken row of the source; with data.on_error: skip they are counted."""
        if not self._faults:
            return
        if self._skips and not always:
            self._account.broken += self._faults
            self._faults = []
            return
        if not self._formats or any(fault.expected == ONE_OBJECT for fault in self._faults):
            raise_broken(source.name, self._faults)
        name = next(reversed(self._formats))
        hint = f"The rows were read as {name}: {load_format(name).NEEDS}."
        raise_faults(source.name, self._faults, "rows", f"{hint} data.on_error: skip leaves broken rows out, counted.")

    def _take(self, item: Row | Fault, chosen: Format) -> Conversation | None:
        if isinstance(item, Fault):
            self._faults.append(item)
            return None
        self._note_unused(item, chosen)
        try:
            if media := [column for column in _MEDIA if item.values.get(column)]:
                raise RowRefusedError("the row has media, which a text model can't see", media[0])
            conversation = chosen.convert(item.values, item.place)
            _check_unicode(conversation)
        except RowFaultError as error:
            self._faults.append(Fault(item.place, error.found, error.expected, error.hint))
            return None
        except RowRefusedError as error:
            self._account.lost(Dropped(item.place, error.reason, error.detail))
            return None
        return None if self._is_repeated(conversation) else conversation

    def _note_unused(self, row: Row, chosen: Format) -> None:
        """Columns that the format does not read, in rows that fill them. Those of a prompt go to the rewards."""
        if chosen.KIND == "prompt":
            return
        read = {*chosen.COLUMNS, *_MEDIA}
        for column, value in row.values.items():
            if column in read or value in (None, "", [], {}):
                continue
            if len(self._unused) < _UNUSED_NAMED:
                self._unused.add(column)
            named = f"the column {column[:_NAME]!r} is" if column in self._unused else "further columns are"
            self._account.note(f"{named} not used", row.place)

    def _is_repeated(self, conversation: Conversation) -> bool:
        if not self._deduplicates:
            return False
        content = hashlib.sha256(encode(conversation).encode("utf-8", "surrogatepass")).digest()
        if self._seen.get(content, conversation.place) != conversation.place:  # a mixture's weight is no repetition
            self._account.lost(Dropped(conversation.place, "repeats an earlier row"))
            return True
        self._seen[content] = conversation.place
        return False


def _first(items: Iterator[Row | Fault]) -> list[Row | Fault]:
    """The rows to tell the format from: fewer where they are huge."""
    taken: list[Row | Fault] = []
    size = 0
    for item in islice(items, _LOOKED_AT):
        taken.append(item)
        size += len(str(item.values)) if isinstance(item, Row) else 0
        if size > _LOOKED_AT_CHARACTERS:
            break
    return taken


def _require_same_format(row: Row, name: str, source: Source, kind: Kind) -> None:
    """Columns that no earlier row had may make it a row of another format, which would be misread as this one."""
    try:
        other = choose_format([row], "auto", source.name, kinds=[kind])
    except DatasetError as error:
        raise DatasetError(f"{row.place} is not in the format of the rows before, {name}: {error.message}") from error
    if other != name:
        raise DatasetError(
            f"{source.name}: the rows are in different formats: {name} at first, {other} from {row.place}",
            hint="Split the file by format, or name one in data.format: rows that are not in it are then told, "
            "and left out with data.on_error: skip.",
        )


def _check_unicode(conversation: Conversation) -> None:
    """Raises RowFaultError for half a surrogate pair: JSON can escape one, but it is no character."""
    texts = [text for message in conversation.turns() for text in message.texts()]
    try:
        "".join([conversation.text or "", *texts, json.dumps(conversation.tools, ensure_ascii=False)]).encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(error.object[error.start]):04X}"
        raise RowFaultError(f"a text holds {code}, half of a character", "valid Unicode", "Write it anew.") from error
