"""The training arguments a recipe leaves out, chosen by model size, data and device, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Default:
    """One chosen value with its reason, for the table that is printed before training."""

    key: str
    value: Any
    reason: str


def choose_defaults(
    given: Mapping[str, Any], *, parameters: int, examples: int, max_length: int, lora: bool, on_cpu: bool
) -> tuple[Default, ...]:
    """What is left out of `given`, chosen. `parameters` and `examples` are counts, `max_length` is in tokens."""
    batch = int(given.get("per_device_train_batch_size", _batch_size(parameters, examples, on_cpu)))
    accumulation = int(given.get("gradient_accumulation_steps", max(1, _effective_batch(examples) // batch)))
    chosen = [
        Default("learning_rate", *_learning_rate(parameters, lora)),
        Default("per_device_train_batch_size", batch, "size and device"),
        Default("gradient_accumulation_steps", accumulation, f"{batch * accumulation} examples a step"),
        Default("optim", "adamw_torch_fused" if on_cpu else "adamw_8bit", "on the CPU" if on_cpu else "8-bit states"),
        Default("lr_scheduler_type", "linear", "Unsloth's notebooks"),
        Default("weight_decay", 0.01, "Unsloth's notebooks"),
        Default("max_length", max_length, "model.max_seq_length"),
        Default("seed", 3407, "Unsloth's"),
        Default("logging_steps", 1, "into metrics.jsonl"),
    ]
    if "max_steps" not in given:
        chosen.insert(1, Default("num_train_epochs", _epochs(examples), f"{examples:,} examples"))
    steps = _steps({**{d.key: d.value for d in chosen}, **given}, examples)
    if "warmup_steps" not in given:
        chosen.append(Default("warmup_steps", min(100, max(1, round(steps * 0.05))), "5 % of the steps"))
    if not {"save_strategy", "save_steps"} & set(given):
        chosen.append(Default("save_steps", max(1, math.ceil(steps / 4)), "four checkpoints a run"))
    if not {"save_strategy", "save_total_limit"} & set(given):
        chosen.append(Default("save_total_limit", 2, "keeps the last two"))
    return tuple(default for default in chosen if default.key not in given)


def _steps(arguments: Mapping[str, Any], examples: int) -> int:
    if int(arguments.get("max_steps", -1)) > 0:
        return int(arguments["max_steps"])
    per_step = arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"]
    return max(1, round(math.ceil(examples / per_step) * float(arguments["num_train_epochs"])))


def _learning_rate(parameters: int, lora: bool) -> tuple[float, str]:
    """(rate, reason). QLoRA (arXiv:2305.14314, appendix B) uses 2e-4 up to 13B and 1e-4 at 33B and 65B."""
    if not lora:
        rate = 5e-5 if parameters < 1.5e9 else 2e-5 if parameters < 1.5e10 else 1e-5
        return rate, "full fine-tune"
    if parameters < 1e8:
        return 1e-3, "LoRA, very small model"
    return (2e-4 if parameters < 2e10 else 1e-4), "QLoRA paper, this size"


def _batch_size(parameters: int, examples: int, on_cpu: bool) -> int:
    if on_cpu:
        return min(8, max(1, examples // 8))
    return 8 if parameters < 2e9 else 4 if parameters < 5e9 else 2


def _effective_batch(examples: int) -> int:
    return 8 if examples < 2000 else 16


def _epochs(examples: int) -> int:
    return 3 if examples < 5000 else 2 if examples < 20000 else 1
