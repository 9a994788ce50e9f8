"""Runs the export worker as a process of its own and turns its JSON lines into progress, results and errors.

A process of its own gives its memory back, survives a trainer's patched libraries, and can be killed whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastft import errors
from fastft.child import python_running
from fastft.errors import ExportError, FastftError
from fastft.files import take_lock
from fastft.redaction import redact_file

STAGING = ".partial-"
_PATIENCE = 100  # tenths of a second that a lock is waited for


def staging_folder(exports: Path, pid: int) -> Path:
    """Where the worker `pid` builds what it will rename into place."""
    return exports / f"{STAGING}{pid}"


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a lock on `folder`, which ends with this process however it ends. Waits a little for one who holds it.

    Raises ExportError if another process keeps it.
    """
    for _ in range(_PATIENCE):
        if (lock := take_lock(folder)) is not None:
            break
        time.sleep(0.1)
    else:
        raise ExportError(f"Another process is exporting into {folder}", hint="Wait for it, or end it.")
    try:
        yield
    finally:
        os.close(lock)


def run_worker(job: dict[str, Any], log: Path, on_progress: Callable[[str, int, int], None] | None) -> list[Path]:
    """Run `job` to its end and return the export folders; library output goes to `log`. Raises what it reports."""
    exports = Path(job["exports"])
    try:
        exports.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"The folder {exports} can't be made: {error.strerror}") from error
    command = [*python_running("fastft.exporters.worker"), str(log)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it died at once: its exit status says so below
                worker.stdin.write(json.dumps(job))
                worker.stdin.close()
            outcome = _follow(worker.stdout, on_progress)
            status = worker.wait()
        finally:
            worker.kill()
            worker.wait()
            redact_file(log)
            staging = staging_folder(exports, worker.pid)
            for folder in (staging, *exports.glob(f"{staging.name}-*")):
                shutil.rmtree(folder, ignore_errors=True)
    if outcome is None:
        raise ExportError(
            f"The export process ended unexpectedly ({_status(status)})", hint=f"Its output is at the end of {log}"
        )
    if outcome["event"] == "error":
        raise _error(outcome)
    return [Path(path) for path in outcome["paths"]]


def _follow(lines: Any, on_progress: Callable[[str, int, int], None] | None) -> dict[str, Any] | None:
    outcome = None
    for line in lines:
        event = json.loads(line)
        if event["event"] != "progress":
            outcome = event
        elif on_progress:
            on_progress(event["stage"], event["done"], event["total"])
    return outcome


def _error(event: dict[str, Any]) -> FastftError:
    kind: type[FastftError] = getattr(errors, event["kind"])
    return kind(event["message"], hint=event["hint"])


def _status(status: int) -> str:
    if status == -9:
        return "killed, which is what a system short of memory does"
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"
