"""Readers of local data files: generators of rows and faults, in the order of the file.

`read_file` yields a Row for each good row and a Fault for each broken one, and reads on. What makes the rest of a file
unreadable raises DatasetError. Memory stays flat, but for JSON that is one list: there the text is held, and the rows
are still decoded one at a time. A new kind of file is one reader and a line in READERS.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from fastft.data.readers.opening import CODECS
from fastft.data.rows import Row
from fastft.errors import DatasetError, Fault

READERS = {
    ".json": "fastft.data.readers.json_files:read_json",
    ".jsonl": "fastft.data.readers.json_files:read_jsonl",
    ".ndjson": "fastft.data.readers.json_files:read_jsonl",
    ".csv": "fastft.data.readers.delimited:read_csv",
    ".tsv": "fastft.data.readers.delimited:read_tsv",
    ".parquet": "fastft.data.readers.columnar:read_parquet",
    ".arrow": "fastft.data.readers.columnar:read_arrow",
}
# These hold their columns compressed already, and are read from several places at once.
_NEVER_PACKED = (".parquet", ".arrow")
ARCHIVES = {".zip", ".tar", ".tgz", ".7z", ".rar"}
_CONVERT = {
    ".txt": 'Put each text into a line of a .jsonl file: {"text": "…"}.',
    ".md": 'Put each text into a line of a .jsonl file: {"text": "…"}.',
    ".xlsx": "Save the sheet as CSV.",
    ".xls": "Save the sheet as CSV.",
    ".ods": "Save the sheet as CSV.",
}


def kind_of(path: Path) -> str:
    """The suffix that says what is in a file, compressed or not (".jsonl" of "a.jsonl.gz"), or "" if none is known."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] in CODECS
    kind = suffixes[-2] if packed and len(suffixes) > 1 else "" if packed or not suffixes else suffixes[-1]
    return kind if kind in READERS and not (packed and kind in _NEVER_PACKED) else ""


def read_file(path: Path, name: str) -> Iterator[Row | Fault]:
    """Rows and faults of one file; `name` is what places call it. Raises DatasetError."""
    kind = kind_of(path)
    if not kind:
        raise unknown_kind(path)
    module, function = READERS[kind].split(":")
    return getattr(import_module(module), function)(path, name)


def unknown_kind(path: Path) -> DatasetError:
    """What to say of a file no reader is for."""
    suffix = path.suffix.lower()
    if suffix in ARCHIVES:
        return DatasetError(f"{path}: {suffix} files can't be read", hint="Unpack it and give the file inside.")
    if suffix in CODECS:
        inner = path.with_suffix("").suffix.lower()
        if inner in _NEVER_PACKED:
            return DatasetError(f"{path}: {inner} files can't be read from {suffix}", hint=f"Unpack it: {path.stem}.")
        found = f"{path}: what is in it can't be told from its name"
        return DatasetError(found, hint=f"Name it by what is inside, for example {path.stem}.jsonl{suffix}.")
    found = f"the suffix {suffix!r}" if suffix else "no suffix"
    hint = f"{_CONVERT.get(suffix, '')} Known are {known_kinds()}.".lstrip()
    return DatasetError(f"{path}: {found} names no known kind of data file", hint=hint)


def known_kinds() -> str:
    return f"{', '.join(READERS)} (text also as {', '.join(CODECS)})"
