"""The console that a command's reports are printed to."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console

_WIDE = 160  # columns where nobody's window has a width: in a file, a pipe, a batch system's log


class _Uncropped(Console):
    """Whoever prints a line that is longer than the window, such as a path to copy, has it whole."""

    def print(self, *objects: Any, crop: bool = False, **options: Any) -> None:
        super().print(*objects, crop=crop, **options)


def user_console(**options: Any) -> Console:
    """On stdout, left out. Lines are folded at the terminal's width or at COLUMNS, hardly where there is neither."""
    console = _Uncropped(highlight=False, **options)
    if not console.is_terminal and not console.is_jupyter and "COLUMNS" not in os.environ:
        console.width = _WIDE
    return console
