"""Whether the system killed a run's last process for want of memory. Its log says so, where that may be read.

A process that was killed otherwise goes on as it was: only what the system's log tells of makes a run go by less.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.out_of_memory import take_less, too_little

if TYPE_CHECKING:
    from fastft.run import Run

_LOG = Path("/dev/kmsg")
_RECORD = 8192  # bytes, the longest that Linux gives
_CLOCKS = 5.0  # seconds that the log's clock may be behind ours


def with_less_if_killed(run: Run, before: Mapping[str, Any], tell: Callable[[str], None]) -> None:
    """Have `run` go on with less where the system killed the process whose heartbeat says `before`.

    Raises TooLittleMemoryError if it takes steps of the least already.
    """
    state, since = before.get("state"), _time(before)
    if state not in ("training", "evaluating") or since is None or before["host"] != platform.node():
        return
    if not run.start_path.is_file() or not killed_for_memory(before["process"], since):
        return
    step = before["step"] + 1
    what = f"the system killed process {before['process']} for want of memory"
    where = "in an evaluation" if state == "evaluating" else f"in step {step} or soon after it"
    less = take_less(run, step, "evaluation" if state == "evaluating" else "training")
    if less is None:
        raise too_little(f"{where}: {what}", "The same command tries it once more, if there is more memory now.")
    tell(f"{what} {where}; it goes on with {less}")


def _time(before: Mapping[str, Any]) -> datetime | None:
    with suppress(ValueError, KeyError):
        return datetime.fromisoformat(before["time"])
    return None


def killed_for_memory(process: int, since: datetime, log: Path = _LOG) -> bool:
    """Whether the system's log says that it killed `process` of this machine so, after `since`.

    False where the log can't be read, and where processes have other numbers than in it, as in most containers.
    """
    if not _numbered_as_in_the_log():
        return False
    began = time.time() - time.monotonic()  # seconds: the clock of the log begins with the machine
    return any(
        f"Killed process {process} (" in text and began + seconds > since.timestamp() - _CLOCKS
        for seconds, text in _records(log)
    )


def _numbered_as_in_the_log() -> bool:
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return any(line.startswith("NSpid:") and len(line.split()) == 2 for line in lines)
    return False


def _records(log: Path) -> Iterator[tuple[float, str]]:
    """(seconds, text) of each record of the kernel's log; none where it can't be read."""
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        while record := _next(descriptor):
            facts, _, text = record.decode("utf-8", "replace").partition(";")
            with suppress(ValueError, IndexError):
                yield int(facts.split(",")[2]) / 1e6, text
    finally:
        os.close(descriptor)


def _next(descriptor: int) -> bytes:
    """The next record, nothing after the last."""
    while True:
        try:
            return os.read(descriptor, _RECORD)
        except BrokenPipeError:  # overwritten meanwhile; the next read goes on behind it
            continue
        except OSError:
            return b""
