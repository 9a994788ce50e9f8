"""The time from the command to the end of the first step: how it is split, and how importing is kept short."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

# Found, but not needed, while Unsloth and what it imports is read. transformers takes scikit-learn for assisted
# generation, requests takes chardet before charset-normalizer, which it has anyway.
_PASSED_OVER = ("sklearn", "chardet")


@dataclass(slots=True)
class Startup:
    """A clock over the stages before the first step. Seconds of the monotonic clock."""

    began: float = field(default_factory=time.monotonic)
    stages: dict[str, float] = field(default_factory=dict)
    _last: float = 0.0

    def __post_init__(self) -> None:
        self._last = self.began

    @classmethod
    def of_process(cls) -> Startup:
        """A clock that began with this process: what Python took to start counts too."""
        clock = cls(time.monotonic() - _age_of_process())
        clock.done("starting")
        return clock

    def done(self, stage: str) -> None:
        """What passed since the last stage belongs to `stage`."""
        now = time.monotonic()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self._last
        self._last = now

    @property
    def seconds(self) -> float:
        """From the beginning to the end of the last stage."""
        return self._last - self.began

    def as_dict(self) -> dict[str, Any]:
        stages = {stage: round(seconds, 2) for stage, seconds in self.stages.items()}
        return {"seconds": round(self.seconds, 2), "stages": stages}


def split(startup: Mapping[str, Any]) -> str:
    """One line of what `Startup.as_dict` holds, stages below a tenth of a second left out."""
    parts = [f"{stage} {seconds:.1f}" for stage, seconds in startup["stages"].items() if seconds >= 0.1]
    return f"{startup['seconds']:.1f} s to the end of the first step: {' · '.join(parts)}"


def first_step_callback(startup: Startup) -> Any:
    """A TrainerCallback that ends the clock with the first step of this process."""
    from transformers import TrainerCallback

    class FirstStep(TrainerCallback):
        seen = False

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if not self.seen:
                startup.done("preparing")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if not self.seen:
                self.seen = True
                startup.done("first step")

    return FirstStep()


@contextmanager
def light_imports() -> Iterator[None]:
    """Import large packages in less time: no collection of garbage, of which imports make none, and nothing unneeded.

    Each package also asks for the whole list of installed distributions; it is read once. All is put back at the end,
    so that what was passed over can still be imported.
    """
    from importlib import metadata

    collecting, distributions = gc.isenabled(), metadata.packages_distributions
    hidden = [name for name in _PASSED_OVER if name not in sys.modules]
    gc.disable()
    metadata.packages_distributions = cache(distributions)
    sys.modules.update(dict.fromkeys(hidden))  # pyright: ignore[reportCallIssue, reportArgumentType]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
        metadata.packages_distributions = distributions
        if collecting:
            gc.enable()
            gc.freeze()  # modules stay: later collections needn't look at their hundreds of thousands of objects


def _age_of_process() -> float:
    """Seconds since this process began, by Linux' accounting; 0 where that isn't told."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
