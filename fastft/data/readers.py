"""Readers of local data files. Each returns rows with places, or raises one DatasetError that names every bad place."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastft.data.sources import Row, raise_faults
from fastft.errors import DatasetError, Fault

# Kinds of files by their first bytes, for a file whose name says something else.
_MAGIC = {
    b"\x1f\x8b": "gzip data: unpack it",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"\x28\xb5\x2f\xfd": "zstd data: unpack it",
    b"PAR1": "Parquet data: name it .parquet",
    b"ARROW1": "Arrow data: write it as .parquet or .jsonl",
    b"SQLite": "an SQLite database: export it as .jsonl",
    b"%PDF": "a PDF",
    b"\xff\xfe": "UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "UTF-16 text: save it as UTF-8",
}


class _DuplicateKeyError(ValueError):
    """A JSON object has a key twice; json would keep only the last value."""


def read_json(path: Path) -> list[Row]:
    """A list of objects, an object with one such list, or JSON Lines under a .json name."""
    text = _read_text(path)
    try:
        value = _parse(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and _is_object_line(text[: error.pos]):
            return _json_lines(path, text)
        raise DatasetError(f"{path.name}: {_json_problem(error, text)}", hint="Repair the file there.") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path.name}: {error}", hint="Repair the file there.") from error
    rows = _the_list(value, path)
    _refuse_non_objects(path, [(f"row {n}", row) for n, row in enumerate(rows, 1)])
    return [Row(row, f"{path.name} row {n}") for n, row in enumerate(rows, 1)]


def read_jsonl(path: Path) -> list[Row]:
    """One object a line; blank lines are passed over."""
    return _json_lines(path, _read_text(path))


def read_csv(path: Path) -> list[Row]:
    return _delimited(path, ",", "comma")


def read_tsv(path: Path) -> list[Row]:
    return _delimited(path, "\t", "tab")


def read_parquet(path: Path) -> list[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        with path.open("rb") as file:
            kind = _kind_of(file.read(8))
        found = f"it is {kind}" if kind and not kind.startswith("Parquet") else str(error).splitlines()[0]
        raise DatasetError(
            f"{path.name} is not a readable Parquet file: {found}", hint="It may be cut short; get it again."
        ) from error
    rows: list[Row] = []
    for batch in table.to_batches():
        rows += [Row(row, f"{path.name} row {n}") for n, row in enumerate(batch.to_pylist(), len(rows) + 1)]
    return rows


def _read_text(path: Path) -> str:
    """The file as text, a UTF-8 byte-order mark left off. Raises DatasetError for anything that is no UTF-8 text."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    if kind := _kind_of(data[:8]):
        raise DatasetError(f"{path.name} is {kind}", hint=f"Its name promises {path.suffix} text.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{path.name}:{line}: the byte 0x{data[error.start]:02x} is not UTF-8",
            hint="Save the file as UTF-8 (from Latin-1: iconv -f latin1 -t utf-8).",
        ) from error
    if (nul := text.find("\0")) >= 0:
        raise DatasetError(
            f"{path.name}:{text.count(chr(10), 0, nul) + 1}: a NUL byte, which no text file has",
            hint="The file is binary or damaged; get it again.",
        )
    if not text.strip():
        raise DatasetError(f"{path.name} is empty", hint="Give a file with at least one row.")
    return text


def _kind_of(head: bytes) -> str:
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")


def _parse(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _DuplicateKeyError(f"an object has the key {twice!r} twice")
    return result


def _is_object_line(text: str) -> bool:
    return "\n" not in text.strip() and text.lstrip().startswith("{")


def _json_problem(error: json.JSONDecodeError, text: str) -> str:
    where = f"line {error.lineno}, column {error.colno}"
    if error.pos >= len(text.rstrip()) or "Unterminated string" in error.msg:
        return f"the JSON breaks off at {where} ({error.msg}); the file is cut short or a quote is missing"
    return f"not valid JSON at {where} ({error.msg}), near {text[error.pos : error.pos + 20]!r}"


def _the_list(value: Any, path: Path) -> list[Any]:
    """`value` if it is a list, or the only list in an object."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        raise DatasetError(f"{path.name} holds a single {type(value).__name__}", hint="Expected a list of objects.")
    lists = {key: item for key, item in value.items() if isinstance(item, list)}
    if len(lists) == 1:
        rows = next(iter(lists.values()))
        if not rows or (isinstance(rows[0], dict) and not {"role", "from"} & rows[0].keys()):
            return rows
    found = f"one object with {', '.join(map(repr, list(value)[:8])) or 'no keys'}"
    raise DatasetError(
        f"{path.name} holds {found}, and which list holds the rows is not certain",
        hint='Expected a list of row objects, or an object with one such list, as {"data": [{…}, …]}.',
    )


def _json_lines(path: Path, text: str) -> list[Row]:
    values, faults = [], []
    # Only "\n" ends a line: str.splitlines would cut at U+2028 and others, which JSON allows inside strings.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values.append((number, _parse(line)))
        except json.JSONDecodeError as error:
            detail = f"not valid JSON at column {error.colno} ({error.msg}), near {line[error.pos :][:20]!r}"
            faults.append(Fault(f"{path.name}:{number}", detail, "one JSON object"))
        except (ValueError, RecursionError) as error:
            faults.append(Fault(f"{path.name}:{number}", str(error), "one JSON object"))
    if faults:
        hint = "Repair those lines. JSON Lines has one whole object on each line; a JSON list belongs in a .json file."
        raise_faults(path.name, faults, "lines", hint)
    _refuse_non_objects(path, [(str(number), value) for number, value in values], ":")
    return [Row(value, f"{path.name}:{number}") for number, value in values]


def _refuse_non_objects(path: Path, values: Sequence[tuple[str, Any]], joint: str = " ") -> None:
    faults = [
        Fault(f"{path.name}{joint}{where}", f"a {type(value).__name__}", "an object with the row's columns")
        for where, value in values
        if not isinstance(value, dict)
    ]
    if faults:
        raise_faults(path.name, faults, "rows", "Each row is an object: {column: value, …}.")


def _delimited(path: Path, delimiter: str, called: str) -> list[Row]:
    text = _read_text(path)
    csv.field_size_limit(2**31 - 1)  # a document in one cell may be longer than the module's default of 128 KiB
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for record in reader:
            if record:
                records.append((line, record))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DatasetError(
            f"{path.name}:{line}: not valid {path.suffix[1:].upper()} ({error})",
            hint='A cell with quotes or line breaks stands in quotes, and quotes inside are doubled: "a ""b"" c".',
        ) from error
    header = _header(path, records[0][1], called)
    return _records(path, header, records[1:])


def _header(path: Path, header: list[str], called: str) -> list[str]:
    names = [name.strip() for name in header]
    if len(names) == 1 and any(other in names[0] for other in ";\t|,"):
        problem = f"one column named {names[0][:60]!r}; cells must be divided by a {called}"
    elif "" in names:
        problem = f"column {names.index('') + 1} has no name"
    elif twice := [name for name in names if names.count(name) > 1]:
        problem = f"the column {twice[0]!r} stands there twice"
    else:
        return names
    raise DatasetError(f"{path.name}:1: {problem}", hint=f"The first line names the columns, divided by a {called}.")


def _records(path: Path, header: list[str], records: list[tuple[int, list[str]]]) -> list[Row]:
    faults = [
        Fault(f"{path.name}:{line}", f"{len(record)} cells", f"{len(header)} as in the header ({', '.join(header)})")
        for line, record in records
        if len(record) != len(header)
    ]
    if faults:
        raise_faults(path.name, faults, "rows", "A cell that holds the separator must stand in quotes.")
    return [Row(dict(zip(header, record, strict=True)), f"{path.name}:{line}") for line, record in records]
