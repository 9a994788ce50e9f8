"""What answers are rewarded for while a model trains: built-in measures, functions of files, reward models."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """TRL's reward functions, so that `from trl.rewards import …` becomes `from fastft.rewards import …`."""
    from fastft.trl_api import forward

    return forward(name, "trl.rewards")
