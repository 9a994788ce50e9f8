"""When a run was begun, gone on with and ended, at which step and why: a line each in its history.jsonl.

A process that was killed writes no line, so the next one tells of it, by what its heartbeat said last.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastft.errors import DatasetError, FastftError, ModelError, RecipeError, RefusedError, printable
from fastft.files import write_text
from fastft.heartbeat import ENDED, Heartbeat
from fastft.lines import append_lines, keep_until, last_value

FILE = "history.jsonl"
METRICS = "metrics.jsonl"
_FIRST, _LAST = 20, 180  # lines that are kept of a run that was stopped again and again
_LONGEST = 1000  # characters of a reason
_MOST_BYTES = 1 << 20
_STEP = re.compile(r"^training stopped at step \d+ of \d+: ")  # which the line has
_ENDINGS = ("stopped", "finished", "refused")
_REFUSALS = (DatasetError, ModelError, RecipeError, RefusedError)  # before anything was done
_KILLED = "it was killed, or the machine went down: its heartbeat says no end"


@dataclass(frozen=True, slots=True)
class History:
    """What became of the processes that train into a run; `heartbeat` is this one's.

    `began` and `went on` tell from which step, `trained` and `finished` that training and all of the run are done;
    `stopped` and `died` tell why and what was done then, `refused` why nothing was done.
    """

    path: Path
    heartbeat: Heartbeat

    def note(self, what: str, step: int | None = None, **facts: Any) -> None:
        """Add a line. One that can't be written, on a full disk, say, is no reason for a run to end."""
        step = self.heartbeat.step if step is None else step
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"time": now, "what": what, "step": step, "process": os.getpid(), "host": platform.node(), **facts}
        with suppress(OSError, FastftError):
            append_lines(self.path, line)
            self._shorten()

    def goes_on_from(self, step: int) -> None:
        """Note here and in train.log that training begins after `step`."""
        what, before = "went on" if step else "began", self.last_end()
        self.note(what, step)
        told = f"{what} after step {step}" + (f"; before, it {before}" if before else "")
        sys.stdout.write(f"fastft: {datetime.now(UTC).isoformat(timespec='seconds')} {told}\n")  # the log by now

    def stopped(self, why: str, what: str = "stopped") -> None:
        why = printable(why)
        self.note(what, why=why if len(why) <= _LONGEST else f"{why[:_LONGEST]}…", doing=self.heartbeat.state)

    def lines(self) -> list[dict[str, Any]]:
        """All that is kept. A line that was cut off, or isn't one of ours, is passed over."""
        with suppress(OSError, ValueError):
            if self.path.stat().st_size <= _MOST_BYTES:
                return [line for text in self._text().splitlines() if (line := _line(text))]
        return []

    def tells_end_of(self, process: int) -> bool:
        """Whether `process` said itself how it ended, whatever its heartbeat: that may have had no room on the disk."""
        lines = self.lines()
        return bool(lines) and lines[-1]["what"] in _ENDINGS and lines[-1].get("process") == process

    def last_end(self) -> str:
        """Why the process before ended, in words; nothing where none did."""
        ends = [line for line in self.lines() if line["what"] in ("stopped", "died")]
        if not ends:
            return ""
        heard = ", last heard of" if ends[-1]["what"] == "died" else ""  # a heartbeat is seconds old
        return f"{ends[-1]['what']}{heard} at step {ends[-1]['step']}: {ends[-1].get('why')}"

    def _text(self) -> str:
        return self.path.read_text(encoding="utf-8", errors="replace")

    def _shorten(self) -> None:
        lines = self._text().splitlines(keepends=True)
        if len(lines) > _FIRST + _LAST:
            write_text(self.path, "".join((*lines[:_FIRST], *lines[-_LAST:])))


def _line(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and {"time", "what", "step"} <= line.keys() else None


@contextmanager
def history_of(directory: Path, heartbeat: Heartbeat) -> Iterator[History]:
    """The history of the run whose lock `heartbeat` holds: how the process before ended, and how this one does."""
    history, before = History(directory / FILE, heartbeat), heartbeat.before
    with suppress(OSError):
        keep_until(history.path, math.inf)  # all but a line that was cut off
    if before and before["state"] not in ENDED and not history.tells_end_of(before["process"]):
        dead = {"process": before["process"], "host": before["host"]}
        step = max(before["step"], last_value(directory / METRICS, "step") or 0)
        history.note("died", int(step), **dead, why=_KILLED, doing=before["state"], last_heard=before["time"])
    try:
        yield history
    except BaseException as error:
        refused = isinstance(error, _REFUSALS) and heartbeat.state == "starting"
        history.stopped(_why(error), "refused" if refused else "stopped")
        raise
    history.note("finished")


def _why(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        with suppress(ValueError):
            return signal.Signals(getattr(error, "exit_code", 128 + signal.SIGINT) - 128).name
    said = error.message if isinstance(error, FastftError) else f"{type(error).__name__}: {error}"
    return _STEP.sub("", said.partition("\n")[0])
