"""The file that takes what libraries say: never larger than a bound, and never a reason for a run to end."""

from __future__ import annotations

import contextlib
import io
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

from fastft.redaction import redact

LIMIT = 16 << 20  # bytes of a log, beyond which its middle goes
_HEAD, _TAIL = 0.125, 0.375  # shares of the bound that are kept then: how it began, and what was said last
_REPEATED = 20  # times that a line is written before only its 100th, 1,000th, … is
_REMEMBERED = 1000  # different lines whose repetitions are counted


def open_log(path: Path, limit: int = LIMIT) -> io.TextIOWrapper:
    """A text stream that appends to `path`, whose descriptor C libraries and child processes may share.

    Above `limit` bytes its middle goes. What can't be written, on a full disk, say, is dropped. Raises OSError if the
    file can't be opened.
    """
    return _Text(_File(path, limit), encoding="utf-8", errors="backslashreplace", line_buffering=True)


def shorten(descriptor: int, limit: int) -> None:
    """Where the open file is above `limit` bytes, leave how it began and how it ends, cut at lines.

    It stays the same file, so that whoever has it open to append goes on at its end.
    """
    size = os.fstat(descriptor).st_size
    if size <= limit:
        return
    head, tail = int(_HEAD * limit), int(_TAIL * limit)
    first, last = os.pread(descriptor, head, 0), os.pread(descriptor, tail, size - tail)
    first, last = first[: first.rfind(b"\n") + 1], last[last.find(b"\n") + 1 :]
    left_out = size - len(first) - len(last)
    os.ftruncate(descriptor, len(first))
    for text in (f"\n… {left_out:,} bytes were left out here …\n\n".encode(), last):
        os.write(descriptor, text)


class _File(io.FileIO):
    """Appends; forgets what can't be written."""

    def __init__(self, path: Path, limit: int) -> None:
        self._limit = limit
        super().__init__(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+")

    def write(self, data: Any) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        with contextlib.suppress(OSError):
            super().write(data)
            shorten(self.fileno(), self._limit)
        return memoryview(data).nbytes


class _Text(io.TextIOWrapper):
    """Whole lines; of one that is said again and again only some, with their number."""

    def __init__(self, file: _File, **options: Any) -> None:
        super().__init__(io.BufferedWriter(file), **options)
        self._said: OrderedDict[str, int] = OrderedDict()
        self._line = ""  # begun and not ended yet

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            told = self._told(line)
            if told is not None:
                super().write(redact(told) + "\n")
        if len(self._line) > io.DEFAULT_BUFFER_SIZE:  # a bar that is drawn over and over, say
            super().write(redact(self._line))
            self._line = ""
        return len(text)

    def _told(self, line: str) -> str | None:
        """What is written of a line that was ended, or None."""
        if not line.strip():
            return line
        count = self._said.pop(line, 0) + 1
        self._said[line] = count
        if len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)
        if count <= _REPEATED:
            return line
        return f"{line} [{count:,} times]" if count >= 100 and str(count).strip("0") == "1" else None

    def flush(self) -> None:
        if not self.closed and self._line:
            super().write(redact(self._line))
            self._line = ""
        super().flush()
