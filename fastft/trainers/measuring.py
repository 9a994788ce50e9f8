"""What a trainer measures on rows it doesn't learn from, without a trace in the training itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastft.random_state import random_state, set_random_state


@contextmanager
def aside(model: Any) -> Iterator[None]:
    """What the model does within leaves no trace in its mode and in the random state, however it ends."""
    before, training = random_state(), model.training
    try:
        yield
    finally:
        set_random_state(before)
        model.train(training)


def measure(trainer: Any, rows: Any = None) -> dict[str, float]:
    """The trainer's own metrics on `rows` (default: its evaluation set), by name without a prefix.

    TRL adds its metrics to what is logged, not to what `evaluate` returns, so they are taken from there. The random
    state, the mode and the log are put back: a measured training is the same as one that wasn't.
    """
    logged = len(trainer.state.log_history)
    with aside(trainer.model):
        trainer.evaluate(rows) if rows is not None else trainer.evaluate()
    found: dict[str, float] = {}
    for entry in trainer.state.log_history[logged:]:
        found |= {key.removeprefix("eval_"): value for key, value in entry.items() if key.startswith("eval_")}
    del trainer.state.log_history[logged:]
    return found
