"""One file a training method. The table is the whole registry."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fastft.data.conversation import IGNORE
from fastft.errors import TrainingError

TRAINERS: dict[str, str] = {
    "sft": "fastft.trainers.sft:build_trainer",
}


def trainer_builder(method: str) -> Any:
    """The `build_trainer` of a method named in TRAINERS."""
    module, function = TRAINERS[method].split(":")
    return getattr(import_module(module), function)


def guard_supervised(dataset: Any, expected: int) -> None:
    """Count the supervised tokens of what the trainer will really feed, after its packing and truncation.

    Raises TrainingError if it isn't the `expected` number that was audited: TRL or Unsloth changed the labels.
    """
    columns = dataset.with_format("arrow")
    found = 0
    for start in range(0, len(dataset), 10_000):
        for chunk in columns[start : start + 10_000]["labels"].chunks:
            first, last = chunk.offsets[0].as_py(), chunk.offsets[-1].as_py()
            found += int((chunk.values.to_numpy()[first:last] != IGNORE).sum())
    if found != expected:
        raise TrainingError(
            f"the trainer would learn {found:,} tokens, and {expected:,} were audited: its labels are not ours",
            hint="This is a fault of fastft with this version of TRL or Unsloth; the run's train.log may say more.",
        )
