"""One file a training method. The table is the whole registry."""

from __future__ import annotations

from importlib import import_module
from typing import Any

TRAINERS: dict[str, str] = {
    "sft": "fastft.trainers.sft:build_trainer",
}


def trainer_builder(method: str) -> Any:
    """The `build_trainer` of a method named in TRAINERS."""
    module, function = TRAINERS[method].split(":")
    return getattr(import_module(module), function)
