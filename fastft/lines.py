"""Files of JSON lines that grow along with a run: a line is whole or not there, and each step stands there once."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastft.disk_space import why_unwritable
from fastft.errors import TrainingError
from fastft.files import write_text

_TAIL = 1 << 16  # bytes at the end of a file in which a value is looked for


def append_lines(path: Path, *values: Mapping[str, Any]) -> None:
    """Add a line for each value. Raises TrainingError where they can't be written; then none of them is there.

    What JSON doesn't know is written as text.
    """
    text = "".join(json.dumps(value, ensure_ascii=False, default=str) + "\n" for value in values)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _write_whole(descriptor, text.encode("utf-8", "surrogatepass"))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise TrainingError(why_unwritable(error, path)) from error


def strict(point: Mapping[str, Any]) -> dict[str, Any]:
    """`point` with null for what is no finite number: JSON has no NaN and no Infinity, and many readers refuse them."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in point.items()
    }


def _write_whole(descriptor: int, text: bytes) -> None:
    """All of it or, where the disk ends within, nothing of it."""
    before = os.fstat(descriptor).st_size
    left = memoryview(text)
    try:
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError:
        with contextlib.suppress(OSError):  # no file with an end, a pipe, say
            os.ftruncate(descriptor, before)
        raise


def last_value(path: Path, key: str) -> float | None:
    """The number that the last line with one under `key` has; a line that is being written now is passed over."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        lines = file.read().splitlines()
    for line in reversed(lines):
        with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
            value = json.loads(line)[key]
            if isinstance(value, int | float) and math.isfinite(value):
                return float(value)
    return None


def keep_until(path: Path, step: float) -> None:
    """Leave the lines of the first `step` steps: those after them will be taken again. A line cut off goes too."""
    keep_where(path, lambda point: int(point["step"]) <= step)


def keep_where(path: Path, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
    """Leave the lines whose values are `wanted`; those that can't be read go."""
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if (point := _point(line)) is not None and wanted(point)]
    if len(kept) != len(lines):
        write_text(path, b"".join(kept).decode())


def unreadable_lines(path: Path) -> list[int]:
    """The numbers, from 1, of lines that hold no step: of none that a kill can leave, which is a last one cut off."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        return [n for n, line in enumerate(file, 1) if line.endswith(b"\n") and _point(line) is None]


def _point(line: bytes) -> dict[str, Any] | None:
    """The values of a whole line that has a step."""
    try:
        point: Any = json.loads(line.decode()) if line.endswith(b"\n") else None
        int(point["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return point
