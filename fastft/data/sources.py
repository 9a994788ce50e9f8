"""Rows with their places, from a local file or a data set on the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from fastft.errors import DatasetError, Fault

READERS = {
    ".json": "fastft.data.readers:read_json",
    ".jsonl": "fastft.data.readers:read_jsonl",
    ".ndjson": "fastft.data.readers:read_jsonl",
    ".csv": "fastft.data.readers:read_csv",
    ".tsv": "fastft.data.readers:read_tsv",
    ".parquet": "fastft.data.readers:read_parquet",
}
_PACKED = {".gz", ".zst", ".zip", ".bz2", ".xz", ".tar", ".tgz", ".7z"}
_CONVERT = {
    ".txt": 'Put each text into a line of a .jsonl file: {"text": "…"}.',
    ".md": 'Put each text into a line of a .jsonl file: {"text": "…"}.',
    ".xlsx": "Save the sheet as CSV.",
    ".xls": "Save the sheet as CSV.",
    ".ods": "Save the sheet as CSV.",
}
SHOWN_FAULTS = 10
SHOWN_PLACES = 5
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Row:
    """One row's columns, and where it stands: "train.jsonl:17" (line) or "train.json row 17" (1-based)."""

    values: dict[str, Any]
    place: str


def load_rows(path: str, *, name: str | None = None, split: str = "train", revision: str | None = None) -> list[Row]:
    """All rows of a local file or of a Hub set's split; never empty. Raises DatasetError."""
    if looks_local(path):
        return _read_local(
            Path(path), {"name": name, "revision": revision, "split": None if split == "train" else split}
        )
    return _read_hub(path, name, split, revision)


def looks_local(path: str) -> bool:
    """A path that exists, or is spelled as no Hub id could be meant to be."""
    suffix = Path(path).suffix.lower()
    return Path(path).exists() or suffix in READERS or suffix in _PACKED or not _HUB_ID.fullmatch(path)


def _read_local(path: Path, hub_only: Mapping[str, str | None]) -> list[Row]:
    for key, value in hub_only.items():
        if value is not None:
            raise DatasetError(f"data.{key} is {value!r}, but {path} is a local file", hint=f"Remove data.{key}.")
    suffix = path.suffix.lower()
    if path.is_dir():
        raise DatasetError(f"{path} is a folder", hint=f"Give one file in it: {_suffixes()}.")
    if not path.exists():
        raise DatasetError(f"{path}: no such file", hint=f"data.path is a local file ({_suffixes()}) or a Hub id.")
    if suffix in _PACKED:
        raise DatasetError(f"{path}: {suffix} files can't be read", hint="Unpack it and give the file inside.")
    if suffix not in READERS:
        found = f"the suffix {suffix!r}" if suffix else "no suffix"
        hint = f"{_CONVERT.get(suffix, '')} Known are {_suffixes()}.".lstrip()
        raise DatasetError(f"{path}: {found} names no known kind of data file", hint=hint)
    module, function = READERS[suffix].split(":")
    rows = getattr(import_module(module), function)(path)
    return _not_empty(rows, str(path))


def _read_hub(path: str, name: str | None, split: str, revision: str | None) -> list[Row]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        loaded = load_dataset(path, name, split=split, revision=revision)
    except DatasetNotFoundError as error:
        raise DatasetError(
            f"{path}: no such file, and no such data set on the Hub ({error})",
            hint="Check the spelling; a private set needs `hf auth login` first.",
        ) from error
    # load_dataset's own complaints: an unknown subset or split, no network, a set it can't parse.
    except (ValueError, OSError, DatasetsError, HfHubHTTPError) as error:
        raise DatasetError(
            f"the Hub set {path} can't be loaded: {error}",
            hint="See data.name (subset), data.split and data.revision; without network, give a local file.",
        ) from error
    rows = [Row(dict(values), f"{path} row {number}") for number, values in enumerate(loaded, 1)]
    return _not_empty(rows, f"{path} ({split})")


def rename_columns(rows: list[Row], columns: Mapping[str, str], source: str) -> list[Row]:
    """Rows with the file's columns renamed to the formats' names. `columns`: format's name -> file's name.

    Raises DatasetError if no row has such a column, or if the new name would hide another column.
    """
    if not columns:
        return rows
    present = {column for row in rows for column in row.values}
    for new, old in columns.items():
        if old not in present:
            raise DatasetError(
                f"{source}: data.columns maps {new} to {old!r}, and no row has that column",
                hint=f"Its columns are {', '.join(sorted(present))}.",
            )
        if new != old and new in present and new not in columns.values():
            raise DatasetError(
                f"{source}: data.columns maps {new} to {old!r}, but there is a column {new} already",
                hint=f"Rename or remove the column {new} in the file.",
            )
    names = {old: new for new, old in columns.items()}
    return [Row({names.get(k, k): v for k, v in row.values.items()}, row.place) for row in rows]


def raise_faults(name: str, faults: Sequence[Fault], unit: str, hint: str) -> None:
    """One DatasetError for all faults: each kind once, with the places of the first rows that have it."""
    kinds: dict[tuple[str, str, str], list[str]] = {}
    for fault in faults:
        kinds.setdefault((fault.found, fault.expected, fault.hint), []).append(fault.where)
    shown = [Fault(_places(where), *kind) for kind, where in list(kinds.items())[:SHOWN_FAULTS]]
    more = f", {len(kinds)} kinds of fault, the first {SHOWN_FAULTS} are" if len(kinds) > SHOWN_FAULTS else ""
    count = f"{len(faults):,} broken {unit}{more}" if len(faults) > 1 else f"a broken {unit[:-1]}"
    raise DatasetError(f"{name}: {count}", hint=hint, faults=shown)


def _places(where: Sequence[str]) -> str:
    """The first places, and how many more there are: "a.jsonl:3, a.jsonl:7 and 12 more"."""
    more = len(where) - SHOWN_PLACES
    return ", ".join(where[:SHOWN_PLACES]) + (f" and {more:,} more" if more > 0 else "")


def _not_empty(rows: list[Row], source: str) -> list[Row]:
    if not rows:
        raise DatasetError(f"{source} holds no rows", hint="Give a file with at least one row.")
    return rows


def _suffixes() -> str:
    return ", ".join(READERS)
