"""What a search for the batch size leaves no room for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fastft.recipe.clash import Clash, Given
from fastft.recipe.describe import shown


def _searched(given: Given) -> Iterator[Clash]:
    if given.training("batch") != "auto":
        return
    hints = {
        "per_device_train_batch_size": "auto finds it; leave one of the two out",
        "gradient_accumulation_steps": "It follows from the batch that is found, so that a step learns as much",
    }
    for key, hint in hints.items():
        if key in given.recipe.training:
            found = f"{shown(given.training(key))} with batch: auto"
            yield Clash((f"training.{key}", "training.batch"), found, "one of them", hint)


BATCH_RULES: tuple[Callable[[Given], Iterator[Clash]], ...] = (_searched,)
