"""Rows with their places, from local files and sets on the Hub, read as they are needed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING

from fastft.data.formats.tags import rename_tags, split_columns
from fastft.data.mixture import ALL_ROWS, Share, take
from fastft.data.origins import HubSet, LocalFiles, Origin
from fastft.data.readers import ARCHIVES, CODECS, READERS
from fastft.data.readers.finding import find_files, is_there
from fastft.data.readers.json_files import ONE_OBJECT
from fastft.data.rows import Row, raise_faults
from fastft.errors import DatasetError, Fault

if TYPE_CHECKING:
    from fastft.recipe.data_section import DataSection, SourceSection

_MOST_BROKEN = 100_000  # rows, after which a missing column is not what is wrong with a file
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """One part of the data. `name` is for people; `format` is "auto" or the name of one.

    `columns` maps the formats' names to the file's, `keys` the same for the keys of a turn, and `roles` a format's role
    to the set's names of it; `rows()` has all of them renamed already.
    """

    name: str
    columns: Mapping[str, str]
    format: str
    origin: Origin = field(repr=False)
    share: Share = ALL_ROWS
    keys: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def rows(self) -> Iterator[Row | Fault]:
        """The rows that are seen, in order, and a fault for each broken one; anew with each call.

        Raises DatasetError, also while it is read: a file that is unreadable or holds no rows, a column that no row
        has, or fewer rows than are wanted.
        """
        self._require_columns()
        names = {old: new for new, old in self.columns.items() if new != old}
        empty = True
        for row in take(self.origin.rows, self.share, self.name):
            empty = False
            yield self._renamed(row, names) if isinstance(row, Row) else row
        if empty:
            raise _no_rows(self.name)

    def fingerprint(self) -> str:
        """sha256 of the content, as hex. Raises DatasetError for a Hub set that can't be loaded."""
        return self.origin.fingerprint()

    def _require_columns(self) -> None:
        """Reads until every column was seen: most often one row, and all only where a column stands nowhere."""
        missing, present = set(self.columns.values()), set()
        rows = self.origin.rows() if missing else iter(())
        broken = 0
        while missing and broken < _MOST_BROKEN and (row := next(rows, None)) is not None:
            if isinstance(row, Row):
                present |= row.values.keys()
                missing -= row.values.keys()
            else:
                broken += 1
        if missing and present:
            new, old = next((new, old) for new, old in self.columns.items() if old in missing)
            raise _missing_column(self.name, new, old, present)

    def _renamed(self, row: Row, names: Mapping[str, str]) -> Row:
        for old, new in names.items():
            if new in row.values and new not in self.columns.values():
                raise _hidden_column(self.name, new, old)
        row = _with_names(row, names) if names else row
        if self.keys or self.roles:
            return Row(rename_tags(row.values, self.keys, self.roles), row.place)
        return row


def sources_of(data: DataSection, seed: int) -> tuple[list[Source], list[Source]]:
    """(sources to train on or to split, sources held out by themselves) of a recipe's data section."""
    held_out = open_held_out(data, seed=seed) if isinstance(data.eval_split, str) else []
    return open_sources(data, data.path, split=data.split, seed=seed), held_out


def open_sources(
    data: DataSection, path: str | Sequence[str | SourceSection], *, split: str, seed: int = 0
) -> list[Source]:
    """The sources that a path means: one, or one for each entry of a mixture.

    `path` is data.path or the file in data.eval_split; `split` is for Hub sets and folders, and for a mixture's entries
    that name none. `seed` picks the rows of a share. Files are found here, and read by `Source.rows`.
    Raises DatasetError: nothing is there, or no kind of file that can be read.
    """
    if isinstance(path, str):
        # Rows held out in a file of their own are no part of the Hub set that data.name and data.revision are about.
        beside = data if path == data.path else None
        entry = _Entry(path, beside and beside.name, split, beside and beside.revision, data.format, data.columns)
        return [_tagged(_open(entry, entry.path), data)]
    entries = [_entry(data, part, split, seed) for part in path]
    names = _names([entry.path for entry in entries])
    return [_tagged(_open(entry, name), data) for entry, name in zip(entries, names, strict=True)]


def open_held_out(data: DataSection, *, seed: int = 0) -> list[Source]:
    """The sources that data.eval_split names: a file, folder or glob, else a split of the Hub set or folder.

    Raises DatasetError as `open_sources` does.
    """
    chosen = str(data.eval_split)
    folder = isinstance(data.path, str) and is_there(Path(data.path)) and Path(data.path).is_dir()
    if is_there(Path(chosen)) or (looks_local(chosen) and Path(chosen).suffix and not folder):
        return open_sources(data, chosen, split="train", seed=seed)
    return open_sources(data, data.path, split=chosen, seed=seed)


def _tagged(source: Source, data: DataSection) -> Source:
    """With what `columns` says of the keys of turns apart, and the set's own names of the roles."""
    columns, keys = split_columns(source.columns)
    return replace(source, columns=columns, keys=keys, roles=data.roles)


@dataclass(frozen=True)
class _Entry:
    """What is said of one source, with what the whole section says where it says nothing."""

    path: str
    name: str | None
    split: str
    revision: str | None
    format: str
    columns: Mapping[str, str]
    share: Share = ALL_ROWS


def _entry(data: DataSection, part: str | SourceSection, split: str, seed: int) -> _Entry:
    if isinstance(part, str):
        return _Entry(part, None, split, None, data.format, data.columns)
    # By its own name alone, so that the rows taken of it don't change when another source comes or goes.
    share = Share(part.fraction, part.count, part.weight, f"{seed}:{Path(part.path).name}")
    columns, kind = part.columns or data.columns, part.format if part.format != "auto" else data.format
    return _Entry(part.path, part.name, part.split or split, part.revision, kind, columns, share)


def _names(paths: list[str]) -> list[str]:
    """Paths shortened to the file's name, or to a longer end where two sources have the same one."""
    ends = [Path(path).name for path in paths]
    return [
        "/".join(Path(path).parts[-2:]) if looks_local(path) and ends.count(end) > 1 else path
        for path, end in zip(paths, ends, strict=True)
    ]


def _open(entry: _Entry, label: str) -> Source:
    if not looks_local(entry.path):
        origin = HubSet(entry.path, entry.name, entry.split, entry.revision)
        name = f"{entry.path} ({entry.split})"
        return Source(name, entry.columns, entry.format, origin, entry.share)
    path = Path(entry.path)
    keys = {"name": entry.name, "revision": entry.revision, "split": None if entry.split == "train" else entry.split}
    _refuse_hub_keys(path, keys)
    files = find_files(path, entry.split)
    name = label if label != entry.path else path.name
    if not path.is_file():
        return Source(name, entry.columns, entry.format, LocalFiles(_named(files)), entry.share)
    return Source(name, entry.columns, entry.format, LocalFiles(((path, name),)), entry.share)


def _named(files: list[Path]) -> tuple[tuple[Path, str], ...]:
    """Files of a folder or glob by their paths below the folder they share."""
    shared = commonpath([file.parent for file in files])
    return tuple((file, file.relative_to(shared).as_posix()) for file in files)


def _refuse_hub_keys(path: Path, keys: Mapping[str, str | None]) -> None:
    folder = is_there(path) and path.is_dir()
    for key, value in keys.items():
        if value is not None and not (key == "split" and folder):
            kind = "folder" if folder else "file"
            raise DatasetError(f"data.{key} is {value!r}, but {path} is a local {kind}", hint=f"Remove data.{key}.")


def looks_local(path: str) -> bool:
    """A path that exists, or is spelled as no Hub id could be meant to be."""
    suffix = Path(path).suffix.lower()
    known = suffix in READERS or suffix in CODECS or suffix in ARCHIVES
    return is_there(Path(path)) or known or not _HUB_ID.fullmatch(path)


def raise_broken(name: str, faults: Sequence[Fault]) -> None:
    """One DatasetError for the faults that a source's `rows()` gave."""
    unit = "lines" if faults[0].expected == ONE_OBJECT else "rows"
    raise_faults(
        name, faults, unit, f"Repair those {unit}, or leave them out, counted and listed: data.on_error: skip."
    )


def _with_names(row: Row, names: Mapping[str, str]) -> Row:
    return Row({names.get(column, column): value for column, value in row.values.items()}, row.place)


def _missing_column(source: str, new: str, old: str, present: set[str]) -> DatasetError:
    return DatasetError(
        f"{source}: data.columns maps {new} to {old!r}, and no row has that column",
        hint=f"Its columns are {', '.join(sorted(present))}.",
    )


def _hidden_column(source: str, new: str, old: str) -> DatasetError:
    return DatasetError(
        f"{source}: data.columns maps {new} to {old!r}, but there is a column {new} already",
        hint=f"Rename or remove the column {new} in the file.",
    )


def _no_rows(source: str) -> DatasetError:
    return DatasetError(f"{source} holds no rows", hint="Give a file with at least one row.")
