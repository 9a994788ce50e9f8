"""What an evaluation is at, while it goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fastft.progress import is_live, working

if TYPE_CHECKING:
    from rich.console import Console

_REPORTED = 20.0  # seconds between lines where there is no terminal


class Progress:
    """What is being done, on one live line, or a line every 20 seconds where there is no terminal."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._said = time.perf_counter()
        self._what, self._total, self._count = "", 0, 0

    def __enter__(self) -> Progress:
        self._working = working(self._console, self._name)
        self._show = self._working.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._working.__exit__(*error)

    def phase(self, what: str, total: int) -> None:
        """Begin something of `total` rows, or of unknown length (0)."""
        self._what, self._total, self._count = what, total, 0
        self.done(0)

    def done(self, count: int) -> None:
        self._count += count
        of = f" {self._count:,} of {self._total:,} rows" if self._total else ""
        text = f"{self._name}: {self._what}{of}"
        self._show(text)
        if not is_live(self._console) and time.perf_counter() - self._said > _REPORTED:
            self._said = time.perf_counter()
            self._console.print(f"  {text}")
