"""Validators shared by the sections: what pydantic's lax mode would let through, and values of several kinds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from fastft.recipe.describe import choices, flatten

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_SPLIT = re.compile(r"[\w.-]+(\[[\d:%]*\])?")


def fault(expected: str, *, found: str = "", hint: str = "") -> PydanticCustomError:
    """An error whose parts go into a Fault as they are. "" keeps what the schema says of the field."""
    return PydanticCustomError("recipe", "{expected}", {"expected": expected, "found": found, "hint": hint})


def refuse_traps(value: Any, annotation: Any) -> Any:
    """Refuse or turn round what would be read as something else than was written.

    False for a choice that has "no" is the text "no" (YAML 1.1 readers, Python callers). A boolean is no number.
    "None" is Python's null, not YAML's.
    """
    kinds = tuple(flatten(annotation))
    if isinstance(value, bool) and bool not in kinds:
        if value is False and "no" in choices(annotation):
            return "no"
        raise fault("", hint="Put a text that looks like a boolean in quotes." if str in kinds else "")
    if value == "None" and type(None) in kinds:
        raise fault("", hint="YAML's word for nothing is null.")
    return value


def one_or_many(value: Any) -> Any:
    """A single text as a list of one; a list without its repetitions."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return list(dict.fromkeys(value))
    return value


def check_eval_split(value: Any) -> float | int | str | None:
    """A share in (0, 1), a count of at least 1, or the text of a file or split name."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value) if re.search("[.eE]", value) else int(value)
    if value is None or (isinstance(value, str) and value and "%" not in value):
        return value
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?\s*%", value):
        raise fault("", hint=f"A share is written as a fraction: {float(value.rstrip(' %')) / 100:g}.")
    if isinstance(value, str) and _SPLIT.fullmatch(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, float) and 0 < value < 1:
        return value
    raise fault("")


def check_target_modules(value: Any) -> Any:
    """A bare text other than the two known words is most likely a list written as one text."""
    if isinstance(value, str) and value not in ("auto", "all-linear"):
        parts = [part for part in re.split(r"[,\s]+", value.strip("[] ")) if part]
        raise fault("", hint=f"A list of module names is written [{', '.join(parts)}].")
    return value


def check_columns(value: Any) -> Any:
    """Canonical column name -> the file's column."""
    if isinstance(value, Mapping) and all(isinstance(column, str) and column for column in value.values()):
        return dict(value)
    raise fault("")
