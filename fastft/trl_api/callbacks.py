"""Thin names over what transformers has: when to evaluate, when to save, and Weights & Biases."""

# ruff: noqa: E402
from __future__ import annotations

from typing import Any

from fastft.backend import import_unsloth

import_unsloth()  # before transformers

from transformers import TrainerCallback
from transformers.integrations.integration_utils import WandbCallback

__all__ = ["CheckpointCallback", "ValidationCallback", "WandbCallback"]


class _EveryFewSteps(TrainerCallback):
    """Sets a flag of transformers' TrainerControl every `steps` optimiser steps, and after the last one."""

    FLAG: str

    def __init__(self, steps: int) -> None:
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise ValueError(f"{type(self).__name__}(steps={steps!r}): expected a whole number of at least 1")
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        if state.global_step % self.steps == 0 or state.global_step >= state.max_steps:
            setattr(control, self.FLAG, True)
        return control


class ValidationCallback(_EveryFewSteps):
    """Evaluates on the trainer's `eval_dataset` every `steps` steps and at the end, as `eval_strategy="steps"` does.

    What is measured is logged as ever: printed, in `trainer.state.log_history`, and sent where `report_to` says.
    """

    FLAG = "should_evaluate"


class CheckpointCallback(_EveryFewSteps):
    """Saves a checkpoint into the config's `output_dir` every `steps` steps and at the end.

    The config's own `save_strategy` and `save_total_limit` hold beside it.
    """

    FLAG = "should_save"
