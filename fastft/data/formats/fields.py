"""Reading typed values out of rows: what every format checks, with one way of saying what is wrong."""

from __future__ import annotations

import json
from typing import Any

from fastft.data.conversation import Message
from fastft.data.faults import RowFaultError


def described(value: Any) -> str:
    """A value for people: its kind and, shortened, what it is."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"the boolean {json.dumps(value)}"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}" + ("…" if len(value) > 40 else "")
    if isinstance(value, dict):
        return f"an object with {', '.join(map(repr, value)) or 'no keys'}"
    return f"a list of {len(value)}" if isinstance(value, list) else f"a {type(value).__name__}"


def text_field(row: dict[str, Any], column: str) -> str:
    """The text in `column`. Raises RowFaultError if it is absent or no text."""
    value = row.get(column)
    if not isinstance(value, str):
        found = f"{column} is {described(value)}" if column in row else f"{column} is missing"
        raise RowFaultError(found, f"a text in {column}")
    return value


def optional_text(row: dict[str, Any], column: str) -> str:
    """The text in `column`, "" where it is absent or null."""
    return "" if row.get(column) is None else text_field(row, column)


def list_field(row: dict[str, Any], column: str, of: str) -> list[Any]:
    """The list in `column`, also where CSV or Parquet hold it as JSON text. Raises RowFaultError."""
    value = row.get(column)
    if isinstance(value, str):
        value = parsed(value, column)
    if not isinstance(value, list):
        found = f"{column} is {described(value)}" if column in row else f"{column} is missing"
        raise RowFaultError(found, f"a list of {of} in {column}")
    return value


def parsed(text: str, what: str) -> Any:
    """`text` as JSON. Raises RowFaultError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowFaultError(f"{what} is {described(text)}, which is not JSON ({error})", f"JSON in {what}") from error


def system_message(row: dict[str, Any], messages: list[Message]) -> list[Message]:
    """`messages`, begun with the text of the row's `system` column if it has one. Raises RowFaultError on two."""
    text = optional_text(row, "system")
    if not text:
        return messages
    if messages and messages[0].role == "system":
        raise RowFaultError("a system column and a system turn", "one of them", "Remove one: only one can come first.")
    return [Message("system", text), *messages]
