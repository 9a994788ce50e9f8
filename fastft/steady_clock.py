"""Time that nobody sets, for what transformers measures by the time of day."""

from __future__ import annotations

import time
from typing import Any


class _SteadyTime:
    """The module `time`, whose time of day nobody sets."""

    time = staticmethod(time.monotonic)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def by_steady_clock() -> None:
    """Have transformers' trainer measure by the monotonic clock: its rates are differences of the time of day.

    A clock that is set while it trains makes them negative. Goes once it takes time.perf_counter for them.
    """
    from transformers import trainer, trainer_utils

    modules: tuple[Any, ...] = (trainer, trainer_utils)
    for module in modules:
        module.time = _SteadyTime()
