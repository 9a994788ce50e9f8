"""JSON Lines, and JSON that is one list of rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from fastft.data.readers.opening import BYTE_ORDER_MARK, MOST_LINE, lines, open_bytes, too_large, whole
from fastft.data.rows import Row
from fastft.errors import DatasetError, Fault

ONE_OBJECT = "one JSON object"
UTF8_HINT = "Save the file as UTF-8 (from Latin-1: iconv -f latin1 -t utf-8)"
NUL = "a NUL byte, which no text file has"
_DAMAGED = "The file is binary or damaged; get it again"
_EACH_LINE = "JSON Lines has one whole object on each line; a JSON list belongs in a .json file"
_REPAIR = "Repair the file there."
_SPACE = re.compile(r"[ \t\n\r]*")


class _DuplicateKeyError(ValueError):
    """A JSON object has a key twice; json would keep only the last value."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _DuplicateKeyError(f"an object has the key {twice!r} twice")
    return result


_STRICT = json.JSONDecoder(object_pairs_hook=_unique)
_LENIENT = json.JSONDecoder()


def read_jsonl(path: Path, name: str) -> Iterator[Row | Fault]:
    """One object a line; blank lines are passed over."""
    with open_bytes(path, name) as file:
        yield from _json_lines(lines(file, name), name)


def read_json(path: Path, name: str) -> Iterator[Row | Fault]:
    """A list of objects, an object with one such list, or JSON Lines under a .json name."""
    with open_bytes(path, name) as file:
        first = file.readline(MOST_LINE)
        begun = [first, *_to_next_filled(file, name)] if _is_object(first) else [first]
        if len(begun) > 1 and not begun[-1].isspace():
            yield from _json_lines(chain(begun, lines(file, name)), name)
            return
        text = decoded(whole(begun, file, name), name)
    try:
        yield from _whole(text, name)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{name}: {_json_problem(error, text)}", hint=_REPAIR) from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{name}: {error}", hint=_REPAIR) from error
    except MemoryError as error:
        raise too_large(name) from error


def decoded(data: bytes, name: str) -> str:
    """Bytes as text, a byte-order mark left off. Raises DatasetError for what is empty or no UTF-8 text."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DatasetError(f"{name}:{line}: {bad_byte(data[error.start])}", hint=f"{UTF8_HINT}.") from error
    if (nul := text.find("\0")) >= 0:
        raise DatasetError(f"{name}:{text.count(chr(10), 0, nul) + 1}: {NUL}", hint=f"{_DAMAGED}.")
    if not text.strip():
        raise empty(name)
    return text


def bad_byte(byte: int) -> str:
    return f"the byte 0x{byte:02x} is not UTF-8"


def empty(name: str) -> DatasetError:
    return DatasetError(f"{name} is empty", hint="Give a file with at least one row.")


def _json_lines(lines: Iterable[bytes], name: str) -> Iterator[Row | Fault]:
    # Bytes are cut at "\n" only; text would be cut at U+2028 and others, which JSON allows inside strings.
    filled = False
    for number, line in enumerate(lines, 1):
        stripped = (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).rstrip()
        if stripped:
            filled = True
            yield _line(stripped, f"{name}:{number}")
    if not filled:
        raise empty(name)


def _line(line: bytes, place: str) -> Row | Fault:
    text = ""
    try:
        text = line.decode()
        # The hook that finds a key that stands twice costs a microsecond a row; a second look at the text costs more.
        value = _STRICT.decode(text)
    except UnicodeDecodeError as error:
        return Fault(place, bad_byte(line[error.start]), "UTF-8 text", UTF8_HINT)
    except json.JSONDecodeError as error:
        if "\0" in text:
            return Fault(place, NUL, ONE_OBJECT, _DAMAGED)
        return Fault(place, _line_problem(error, text), ONE_OBJECT, _EACH_LINE)
    except (ValueError, RecursionError) as error:
        return Fault(place, str(error), ONE_OBJECT)
    return _as_row(value, place)


def _as_row(value: Any, place: str) -> Row | Fault:
    if isinstance(value, dict):
        return Row(value, place)
    found = "nothing (null)" if value is None else f"a {type(value).__name__}"
    return Fault(place, found, "an object with the row's columns", "Each row is an object: {column: value, …}")


def _is_object(line: bytes) -> bool:
    """Whether a first line is a whole object, as in JSON Lines."""
    try:
        return isinstance(_LENIENT.decode(line.removeprefix(BYTE_ORDER_MARK).decode()), dict)
    except (ValueError, RecursionError):
        return False


def _to_next_filled(file: BinaryIO, name: str) -> Iterator[bytes]:
    for line in lines(file, name):
        yield line
        if not line.isspace():
            return


def _whole(text: str, name: str) -> Iterator[Row | Fault]:
    """Rows of a text that is one JSON value; or of JSON Lines that begin with something else than a good line."""
    start = _skip(text, 0)
    if text.startswith("[", start):
        yield from _elements(text, start + 1, name)
        return
    try:
        value, end = _STRICT.raw_decode(text, start)
    except _DuplicateKeyError:
        value, end = _LENIENT.raw_decode(text, start)
        if not _is_more(text, start, end):
            raise
    if _is_more(text, start, end):
        yield from _json_lines((line.encode() for line in text.split("\n")), name)
    elif (extra := _skip(text, end)) < len(text):
        raise json.JSONDecodeError("Extra data", text, extra)
    else:
        for number, row in enumerate(_the_list(value, name), 1):
            yield _as_row(row, f"{name} row {number}")


def _is_more(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] is an object on one line, and something follows: then these are JSON Lines."""
    return text[start] == "{" and "\n" not in text[start:end] and _skip(text, end) < len(text)


def _elements(text: str, position: int, name: str) -> Iterator[Row | Fault]:
    """The rows of a list whose first element begins at or after `position`."""
    position = _skip(text, position)
    number, more = 0, not text.startswith("]", position)
    while more:
        number += 1
        place = f"{name} row {number}"
        try:
            value, position = _STRICT.raw_decode(text, position)
            yield _as_row(value, place)
        except _DuplicateKeyError as error:
            _, position = _LENIENT.raw_decode(text, position)
            yield Fault(place, str(error), "each key once")
        position = _skip(text, position)
        more = text.startswith(",", position)
        if more:
            position = _skip(text, position + 1)
        elif not text.startswith("]", position):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
    if (extra := _skip(text, position + 1)) < len(text):
        raise json.JSONDecodeError("Extra data", text, extra)


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    assert found is not None, "the pattern matches an empty text"
    return found.end()


def _line_problem(error: json.JSONDecodeError, text: str) -> str:
    if error.pos >= len(text):
        return f"the JSON breaks off at column {error.colno} ({error.msg}): the line is cut short"
    return f"not valid JSON at column {error.colno} ({error.msg}), near {text[error.pos : error.pos + 20]!r}"


def _json_problem(error: json.JSONDecodeError, text: str) -> str:
    where = f"line {error.lineno}, column {error.colno}"
    if error.pos >= len(text.rstrip()) or "Unterminated string" in error.msg:
        return f"the JSON breaks off at {where} ({error.msg}); the file is cut short or a quote is missing"
    return f"not valid JSON at {where} ({error.msg}), near {text[error.pos : error.pos + 20]!r}"


def _the_list(value: Any, name: str) -> list[Any]:
    """The only list in an object. Raises DatasetError for any other value."""
    if not isinstance(value, dict):
        raise DatasetError(f"{name} holds a single {type(value).__name__}", hint="Expected a list of objects.")
    lists = {key: item for key, item in value.items() if isinstance(item, list)}
    if len(lists) == 1:
        rows = next(iter(lists.values()))
        if not rows or (isinstance(rows[0], dict) and not {"role", "from"} & rows[0].keys()):
            return rows
    found = f"one object with {', '.join(map(repr, list(value)[:8])) or 'no keys'}"
    raise DatasetError(
        f"{name} holds {found}, and which list holds the rows is not certain",
        hint='Expected a list of row objects, or an object with one such list, as {"data": [{…}, …]}.',
    )
