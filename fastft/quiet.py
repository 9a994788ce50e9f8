"""Keeps the chatter of libraries off the terminal: it goes to a log file, ours goes to the user."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TextIO

from rich.console import Console

from fastft.log_file import open_log
from fastft.redaction import redact_file
from fastft.user_console import user_console


@contextlib.contextmanager
def library_output_to(log: Path, console: Console) -> Iterator[Console]:
    """Send file descriptors 1 and 2 and sys.stdout/stderr to `log`; yield a console that goes where `console` went.

    The descriptors themselves are moved, so that output of C++ libraries and child processes is caught too.
    What the log has no room for is dropped; it stays below a bound.
    In a notebook sys.stdout is no descriptor; there the console keeps writing to the cell.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    streams = sys.stdout, sys.stderr
    on_stdout = console.file is sys.stdout
    with open_log(log) as file:
        user = _user_stream(streams[0], saved[0]) if on_stdout else console.file
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = file
            yield user_console(file=user, tireless=True) if on_stdout else console
        finally:
            user.flush()
            sys.stdout, sys.stderr = streams
            for descriptor, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)
            if log.is_file():
                redact_file(log)  # what came by the descriptors: C libraries, processes of others


def _user_stream(stdout: TextIO, copy_of_1: int) -> IO[str]:
    try:
        on_descriptor_1 = stdout.fileno() == 1
    except (io.UnsupportedOperation, AttributeError):
        on_descriptor_1 = False
    if not on_descriptor_1:
        return stdout
    return os.fdopen(copy_of_1, "w", buffering=1, encoding=stdout.encoding, errors="replace", closefd=False)
