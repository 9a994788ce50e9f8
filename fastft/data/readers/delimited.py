"""CSV and TSV: a header, then a record a row. A cell may hold line breaks; a place is the record's first line."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastft.data.readers.json_files import NUL, UTF8_HINT, bad_byte, empty
from fastft.data.readers.opening import MOST_LINE, lines, open_bytes
from fastft.data.rows import Row
from fastft.errors import DatasetError, Fault

_QUOTING = 'A cell with quotes or line breaks stands in quotes, and quotes inside are doubled: "a ""b"" c"'
_ESCAPED = re.compile("[\udc80-\udcff]")

_Record = tuple[int, list[str] | Fault]


def read_csv(path: Path, name: str) -> Iterator[Row | Fault]:
    return _delimited(path, name, ",", "comma")


def read_tsv(path: Path, name: str) -> Iterator[Row | Fault]:
    return _delimited(path, name, "\t", "tab")


def _delimited(path: Path, name: str, delimiter: str, called: str) -> Iterator[Row | Fault]:
    csv.field_size_limit(MOST_LINE)  # a document in one cell may be longer than the module's default of 128 KiB
    with open_bytes(path, name) as file:
        # Bytes that are not UTF-8 come out as lone surrogates, so that they can be told with their line.
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        kind = "TSV" if delimiter == "\t" else "CSV"
        records = _records(csv.reader(lines(text, name), delimiter=delimiter, strict=True), name, kind)
        header = _header(name, next(records, None), called)
        for line, record in records:
            yield record if isinstance(record, Fault) else _row(f"{name}:{line}", header, record)


def _records(reader: Any, name: str, kind: str) -> Iterator[_Record]:
    """(first line, cells or what is wrong with them), blank lines passed over."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield line, Fault(f"{name}:{line}", f"not valid {kind} ({error})", "a record of cells", _QUOTING)
            continue
        if cells is None:
            return
        if cells:
            yield line, _damage("".join(cells), f"{name}:{line}") or cells


def _damage(text: str, place: str) -> Fault | None:
    if "\0" in text:
        return Fault(place, NUL, "text", "The file is binary or damaged; get it again")
    if not text.isascii() and (found := _ESCAPED.search(text)):
        return Fault(place, bad_byte(ord(found[0]) - 0xDC00), "UTF-8 text", UTF8_HINT)
    return None


def _header(name: str, record: _Record | None, called: str) -> list[str]:
    """The names of the columns. Raises DatasetError: without them no row can be read."""
    if record is None:
        raise empty(name)
    if isinstance(record[1], Fault):
        raise DatasetError(f"{record[1].where}: {record[1].found}", hint=f"{record[1].hint}.")
    names = [cell.strip() for cell in record[1]]
    if len(names) == 1 and any(other in names[0] for other in ";\t|,"):
        problem = f"one column named {names[0][:60]!r}; cells must be divided by a {called}"
    elif "" in names:
        problem = f"column {names.index('') + 1} has no name"
    elif twice := [name for name, count in Counter(names).items() if count > 1]:
        problem = f"the column {twice[0]!r} stands there twice"
    else:
        return names
    raise DatasetError(f"{name}:1: {problem}", hint=f"The first line names the columns, divided by a {called}.")


def _row(place: str, header: list[str], record: list[str]) -> Row | Fault:
    if len(record) == len(header):
        return Row(dict(zip(header, record, strict=True)), place)
    expected = f"{len(header)} as in the header ({', '.join(header)})"
    return Fault(place, f"{len(record)} cells", expected, "A cell that holds the separator must stand in quotes")
