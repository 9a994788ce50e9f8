"""One file a training method. The table is the whole registry."""

from __future__ import annotations

from importlib import import_module
from typing import Any

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
    import pyarrow.compute as pc

    columns = dataset.with_format("arrow")
    found = 0
    for start in range(0, len(dataset), 10_000):
        labels = pc.list_flatten(columns[start : start + 10_000]["labels"])  # pyright: ignore[reportAttributeAccessIssue]
        found += pc.sum(pc.not_equal(labels, -100)).as_py() or 0  # pyright: ignore[reportAttributeAccessIssue]
    if found != expected:
        raise TrainingError(
            f"the trainer would learn {found:,} tokens, and {expected:,} were audited: its labels are not ours",
            hint="This is a fault of fastft with this version of TRL or Unsloth; the run's train.log may say more.",
        )
