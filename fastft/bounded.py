"""What transformers keeps of every step or evaluation, and what would grow with a run's length, kept small."""

from __future__ import annotations

from typing import Any

REMEMBERED = 1000  # points of the log in memory and in each checkpoint; metrics.jsonl has them all


def keep_bounded(trainer: Any) -> None:
    """Let nothing of `trainer` grow with the number of steps and evaluations, in memory, checkpoints or train.log."""
    from transformers import PrinterCallback, TrainerCallback

    trainer.remove_callback(PrinterCallback)  # which prints each point into train.log

    class BoundedCallback(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            del state.log_history[:-REMEMBERED]
            # accelerate keeps each evaluation's, for states that it would save itself
            del trainer.accelerator._dataloaders[1:-1]

    trainer.add_callback(BoundedCallback())
