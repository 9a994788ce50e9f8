"""What an epoch is to transformers' Trainer: how many steps it has, and how much of the data it feeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastft.trainers import groups


def steps_an_epoch(arguments: Mapping[str, Any], sequences: int) -> int:
    """Optimiser steps of one pass over so many sequences, or prompts where the model writes several answers to each.

    As `Trainer.set_initial_training_values` counts them: the last step takes the micro-batches that are left.
    """
    return max(1, math.ceil(_micro_batches(arguments, sequences) / int(arguments["gradient_accumulation_steps"])))


def epochs_of(arguments: Mapping[str, Any], sequences: int, steps: int) -> float:
    """Epochs that so many steps are, as the trainer tells them: within an epoch by micro-batches."""
    whole, rest = divmod(steps, steps_an_epoch(arguments, sequences))
    return whole + rest * int(arguments["gradient_accumulation_steps"]) / max(1, _micro_batches(arguments, sequences))


def passes(arguments: Mapping[str, Any], sequences: int, steps: int) -> float:
    """How often the data is fed in so many steps: less than their epochs where an epoch leaves rows out."""
    whole, rest = divmod(steps, steps_an_epoch(arguments, sequences))
    return (whole * _fed_an_epoch(arguments, sequences) + rest * _fed_a_step(arguments)) / max(1, sequences)


def _micro_batches(arguments: Mapping[str, Any], sequences: int) -> int:
    """Of an epoch."""
    if arguments.get("num_generations"):
        return groups.batches_an_epoch(arguments, sequences)
    batch = int(arguments["per_device_train_batch_size"])
    return sequences // batch if arguments.get("dataloader_drop_last") else math.ceil(sequences / batch)


def _fed_an_epoch(arguments: Mapping[str, Any], sequences: int) -> int:
    if arguments.get("num_generations"):
        at_a_time = groups.prompts_at_a_time(arguments)
        return sequences // at_a_time * at_a_time
    batch = int(arguments["per_device_train_batch_size"])
    return min(sequences, _micro_batches(arguments, sequences) * batch)


def _fed_a_step(arguments: Mapping[str, Any]) -> float:
    """Sequences, or prompts: each of these is several answers, and they may be learned from several times."""
    rows = int(arguments["per_device_train_batch_size"]) * int(arguments["gradient_accumulation_steps"])
    return rows / (int(arguments.get("num_generations") or 1) * int(arguments.get("num_iterations") or 1))
