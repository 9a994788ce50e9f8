"""The console that a command's reports are printed to."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

from rich.console import Console

_WIDE = 160  # columns of tables where nobody's window has a width: in a file, a pipe, a batch system's log


class _Uncropped(Console):
    """Whoever prints a line that is longer than the window, such as a path to copy, has it whole.

    Where nobody's window has a width, lines aren't folded at all: what reads them looks for words.
    """

    folds = True

    def print(self, *objects: Any, crop: bool = False, soft_wrap: bool | None = None, **options: Any) -> None:
        super().print(*objects, crop=crop, soft_wrap=not self.folds if soft_wrap is None else soft_wrap, **options)


class _Tireless(_Uncropped):
    """Falls silent where nothing can be written any more: a pipe nobody reads, a full disk, a terminal that is gone.

    Hours of work don't end for that; rich would end the process.
    """

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as error:
            self._fall_silent(error)

    def on_broken_pipe(self) -> None:
        self._fall_silent(BrokenPipeError("nobody reads it"))

    def _fall_silent(self, error: OSError) -> None:
        del self._buffer[:]
        self.quiet = True
        with suppress(OSError, ValueError, AttributeError):  # what is in its buffer has to go somewhere, too
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())
            os.close(nowhere)
        with suppress(OSError, ValueError):
            told = f"what is said can't be written any more ({error.strerror or error}); the work goes on"
            sys.stderr.write(f"fastft: {told}\n")  # the log's while there is one


def user_console(*, tireless: bool = False, **options: Any) -> Console:
    """On stdout, left out. Lines are folded at the terminal's width or at COLUMNS, not where there is neither.

    `tireless`: what can't be written ends nothing.
    """
    console = (_Tireless if tireless else _Uncropped)(highlight=False, **options)
    if not console.is_terminal and not console.is_jupyter and "COLUMNS" not in os.environ:
        console.width, console.folds = _WIDE, False
    return console
