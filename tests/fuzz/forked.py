"""Whole commands, each in a process forked from this one, which has imported what they need: hundreds are cheap."""

from __future__ import annotations

import gc
import os
import signal
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from fastft.errors import FastftError
from tests.forked_command import become_command

_MOST = 60_000  # characters that a command may print
_OBEYED = "\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # by a terminal, unseen


class RefusedError(FastftError):
    """The command ended with one clear error, as it should."""


def settle() -> None:
    """Before the first fork, so that what is imported is shared and not looked at again."""
    gc.collect()
    gc.freeze()


def run_forked(arguments: Sequence[object], folder: Path, said: str = "") -> tuple[int, str]:
    """(exit status, negative for a signal; all that was printed) of `fastft ARGUMENTS` in `folder`, `said` to it.

    Whatever ends this process's waiting ends the command and what it started.
    """
    output, given = folder / ".output", folder / ".input"
    output.unlink(missing_ok=True)
    given.write_text(said)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.chdir(folder)
        become_command([str(word) for word in arguments], given, output)
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except BaseException:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return status, output.read_bytes().decode("utf-8", "backslashreplace")


def require_clear(status: int, text: str, names: Sequence[str]) -> None:
    """Asserts that a command succeeded or, with RefusedError, that it ended with one error for people naming a name."""
    told = f"exit status {status}: {text[-600:]!r}"
    errors = [line for line in text.splitlines() if line.startswith("error:")]
    assert status in (0, 1, 2), told
    assert "Traceback (most recent call last)" not in text, told
    assert "fastft failed with" not in text, f"an error that nobody put into words: {told}"
    assert "ended unexpectedly" not in text, f"a process under it died: {told}"
    hostile = [c for c in text if (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") or c in _OBEYED]
    assert not hostile, f"it writes {hostile[0]!r} on a terminal: {told}"
    assert len(text) <= _MOST, f"{len(text):,} characters: {told}"
    assert len(errors) == (status != 0), f"{len(errors)} errors: {told}"
    if errors:
        assert any(name in text for name in names), f"it names none of {names[:3]}: {told}"
        raise RefusedError(errors[0])
