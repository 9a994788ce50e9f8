"""Who trains into a run directory: a lock that ends with its process, and a heartbeat that tells how far it is."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from fastft.errors import TrainingError
from fastft.files import is_alive, take_lock, write_text
from fastft.reading import read_json

FILE = "heartbeat.json"
ENDED = ("finished", "stopped")  # states of a process that came to an end of its own
_EVERY = 5.0  # seconds between beats at least


class _Told(TypedDict):
    process: int
    host: str
    state: str
    step: int
    steps: int
    time: str


@dataclass(slots=True)
class Heartbeat:
    """Written while a process trains: its number and host, the step it is at and when that was (UTC)."""

    path: Path
    before: Mapping[str, Any] = field(default_factory=dict)  # what the process before this one said last
    steps: int = 0
    step: int = 0
    state: str = ""
    _beaten: float = -_EVERY

    @classmethod
    def after(cls, path: Path) -> Heartbeat:
        """One that knows how far the run was, where that is told."""
        try:
            told = read_json(path, TrainingError, shape=_Told)
        except TrainingError:
            return cls(path)
        return cls(path, told, told["steps"], told["step"])

    def beat(self, state: str, step: int | None = None, *, now: bool = True) -> None:
        """Say what is going on, at the last step told; unless `now`, at most every five seconds by a steady clock."""
        self.state, self.step = state, self.step if step is None else step
        if not now and time.monotonic() - self._beaten < _EVERY:
            return
        self._beaten = time.monotonic()
        facts = {"process": os.getpid(), "host": platform.node(), "state": state, "step": self.step}
        facts["steps"] = self.steps
        self._write(json.dumps({**facts, "time": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n")

    def _write(self, text: str) -> None:
        """Beside its place and, where a full disk has no room for that, over what it said last.

        What it would tell is no reason for a run to end.
        """
        try:
            write_text(self.path, text)
        except OSError:
            with suppress(OSError), self.path.open("r+", encoding="utf-8") as file:
                file.write(text)
                file.truncate()

    def callback(self) -> Any:
        """A TrainerCallback that beats along with training."""
        from transformers import TrainerCallback

        heartbeat = self

        class HeartbeatCallback(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
                heartbeat.steps = state.max_steps
                heartbeat.beat("training", state.global_step)

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
                heartbeat.beat("training", state.global_step, now=False)

            def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
                heartbeat.beat("evaluating", state.global_step, now=False)

        return HeartbeatCallback()


@contextmanager
def alone_in_run(directory: Path) -> Iterator[Heartbeat]:
    """Hold the run's lock, which ends with this process however it ends, and its heartbeat.

    Raises TrainingError if another process trains into it.
    """
    lock = take_lock(directory)
    if lock is None:
        raise _trained_now(directory)
    _clear(directory)
    heartbeat, state = Heartbeat.after(directory / FILE), "stopped"
    try:
        heartbeat.beat("starting")
        yield heartbeat
        state = "finished"
    finally:
        heartbeat.beat(state)
        os.close(lock)


def _clear(directory: Path) -> None:
    """Remove what a process left that was killed while it wrote a file: see `files.write_text`."""
    for path in directory.glob(".*.partial-*"):
        number = path.name.rpartition("-")[2]
        if path.is_file() and number.isdigit() and (int(number) == os.getpid() or not is_alive(int(number))):
            path.unlink(missing_ok=True)


def require_alone(directory: Path) -> None:
    """Raises TrainingError if a living process holds the run's lock."""
    if is_trained_now(directory):
        raise _trained_now(directory)


def _trained_now(directory: Path) -> TrainingError:
    return TrainingError(
        f"another process is training into {directory}: {last_beat(directory)}",
        hint="Wait for it, or end it; a process that died holds no lock.",
    )


def is_trained_now(directory: Path) -> bool:
    """Whether a living process holds the run's lock."""
    lock = take_lock(directory)
    if lock is not None:
        os.close(lock)
    return lock is None


def last_state(directory: Path) -> str | None:
    """What the last process to train into `directory` was at, or None if that isn't told."""
    try:
        return str(read_json(directory / FILE, TrainingError)["state"])
    except (TrainingError, KeyError):
        return None


def last_beat(directory: Path) -> str:
    """What the heartbeat said last, in words."""
    try:
        told = read_json(directory / FILE, TrainingError)
        at = datetime.fromisoformat(told["time"])
        ago = (datetime.now(UTC) - at).total_seconds()
        return (
            f"process {told['process']} on {told['host']}, {told['state']}, step {told['step']} of {told['steps']}, "
            f"{max(0, round(ago))} s ago"
        )
    except (TrainingError, ValueError, KeyError, TypeError):
        return "it has left no heartbeat yet"
