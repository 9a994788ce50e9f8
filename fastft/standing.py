"""The public `status`: how a run stands, told from its directory alone, whether or not its process lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastft.checkpoints import step_of, whole_checkpoint
from fastft.errors import printable
from fastft.heartbeat import ENDED, FILE, Heartbeat, is_trained_now, last_beat
from fastft.history import FILE as HISTORY
from fastft.history import History
from fastft.lines import last_value
from fastft.run import Run


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stands.

    `state` is "running" (a living process holds its lock), "finished", "trained" (exports are missing), "stopped" (it
    ended of its own), "died" (it was killed, or the machine went down) or "new" (nothing was trained yet). `told` says
    the same in words. `goes_on_from` is the step of the last whole checkpoint, `damaged` tells of those passed over.
    """

    run: Path
    state: str
    told: str
    step: int
    steps: int
    loss: float | None
    goes_on_from: int
    damaged: tuple[str, ...]
    history: tuple[Mapping[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "run": str(self.run)}


def status(run: Run | Path | str) -> Standing:
    """How the run directory `run` stands. Reads and hashes its checkpoints, and changes nothing.

    Raises ModelError if it is no run directory.
    """
    run = Run.open(run.directory if isinstance(run, Run) else run)
    heartbeat, damaged = Heartbeat.after(run.directory / FILE), []
    history = History(run.directory / HISTORY, heartbeat)
    living = is_trained_now(run.directory)
    state, told = ("running", last_beat(run.directory)) if living else _ended(run, heartbeat, history)
    reached = max(heartbeat.step, int(last_value(run.metrics_path, "step") or 0))
    whole = None if run.finished else whole_checkpoint(run.checkpoints, damaged.append)
    return Standing(
        run.directory, state, told, reached, heartbeat.steps, last_value(run.metrics_path, "loss"), step_of(whole),
        tuple(damaged), tuple(history.lines()),
    )  # fmt: skip


def _ended(run: Run, heartbeat: Heartbeat, history: History) -> tuple[str, str]:
    before = heartbeat.before
    if run.complete:
        return "finished", "training and exports are done"
    if before and before["state"] not in ENDED and not history.tells_end_of(before["process"]):
        return "died", f"it was killed, or the machine went down, without a word: {last_beat(run.directory)}"
    if end := printable(history.last_end().partition("\n")[0]):
        return ("trained" if run.finished else "stopped"), f"it {end}"
    return ("trained", "its exports are missing") if run.finished else ("new", "nothing was trained yet")


def in_words(line: Mapping[str, Any]) -> str:
    """A line of the history for people."""
    when, what, step, why = (printable(str(line.get(key) or 0)) for key in ("time", "what", "step", "why"))
    return f"{when}  {what} at step {step}" + (f": {' '.join(why.split())}" if line.get("why") else "")
