"""What a trainer measures on rows it doesn't learn from, without a trace in the training itself."""

from __future__ import annotations

from typing import Any


def measure(trainer: Any, rows: Any = None) -> dict[str, float]:
    """The trainer's own metrics on `rows` (default: its evaluation set), by name without a prefix.

    TRL adds its metrics to what is logged, not to what `evaluate` returns, so they are taken from there. The random
    state, the mode and the log are put back: a measured training is the same as one that wasn't.
    """
    import random

    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()
    training, logged = trainer.model.training, len(trainer.state.log_history)
    with torch.random.fork_rng():
        trainer.evaluate(rows) if rows is not None else trainer.evaluate()
    random.setstate(states[0])
    np.random.set_state(states[1])
    trainer.model.train(training)
    found: dict[str, float] = {}
    for entry in trainer.state.log_history[logged:]:
        found |= {key.removeprefix("eval_"): value for key, value in entry.items() if key.startswith("eval_")}
    del trainer.state.log_history[logged:]
    return found
