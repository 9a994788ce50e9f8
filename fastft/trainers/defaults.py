"""The training arguments a recipe leaves out, chosen by model size, data and device, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from fastft.recipe.trl_config import config_fields
from fastft.trainers.groups import batch_sizes, steps_an_epoch
from fastft.trainers.method import Default, Method


def choose_defaults(
    given: Mapping[str, Any],
    method: Method,
    *,
    parameters: int,
    examples: int,
    sequences: int,
    max_length: int,
    lora: bool,
    on_cpu: bool,
    recompute: bool = True,
) -> tuple[Default, ...]:
    """What is left out of `given`, chosen for a method. `parameters` is a count, `max_length` is in tokens.

    Without `recompute` activations are kept: TRL's configs would recompute them whatever the LoRA section says.

    `examples` are the conversations to learn, `sequences` what they are fed as: fewer, where they are packed.
    """
    own = {default.key: default for default in method.defaults if default.key not in given}
    if "max_steps" in given:
        own.pop("num_train_epochs", None)
    known = {**{key: default.value for key, default in own.items()}, **given}
    wanted = _sequences_a_step(examples, sequences, on_cpu)
    packing = sequences < examples
    batch = int(known.get("per_device_train_batch_size", _batch_size(parameters, wanted, packing, on_cpu)))
    accumulation = int(known.get("gradient_accumulation_steps", max(1, wanted // batch)))
    if method.generates:
        batch, accumulation = batch_sizes(known, examples)
    chosen = [
        *own.values(),
        Default("learning_rate", *_learning_rate(parameters, lora, method)),
        Default("per_device_train_batch_size", batch, "size and device"),
        Default("gradient_accumulation_steps", accumulation, f"{batch * accumulation} sequences a step"),
        Default("optim", "adamw_torch_fused" if on_cpu else "adamw_8bit", "on the CPU" if on_cpu else "8-bit states"),
        Default("lr_scheduler_type", "linear", "Unsloth's notebooks"),
        Default("weight_decay", 0.01, "Unsloth's notebooks"),
        Default("max_length", max_length, "model.max_seq_length"),
        Default("seed", 3407, "Unsloth's"),
        Default("logging_steps", 1, "into metrics.jsonl"),
    ]
    if not recompute:
        chosen.append(Default("gradient_checkpointing", False, "as lora.use_gradient_checkpointing"))
    if "max_steps" not in given:
        chosen.insert(len(own) + 1, Default("num_train_epochs", _epochs(examples), f"{examples:,} examples"))
    chosen += _by_steps(given, steps_of({**{d.key: d.value for d in chosen}, **known}, sequences))
    fields, taken = config_fields(method.name), set(given)
    unique = {default.key: default for default in reversed(chosen)}  # the method's own wins
    return tuple(unique[d.key] for d in chosen if unique[d.key] is d and d.key in fields and d.key not in taken)


def _by_steps(given: Mapping[str, Any], steps: int) -> Iterator[Default]:
    """What follows from the number of steps."""
    if "warmup_steps" not in given:
        yield Default("warmup_steps", min(100, max(1, round(steps * 0.05))), "5 % of the steps")
    if not {"save_strategy", "save_steps"} & set(given):
        yield Default("save_steps", max(1, math.ceil(steps / 4)), "four checkpoints a run")
    if not {"save_strategy", "save_total_limit"} & set(given):
        yield Default("save_total_limit", 2, "keeps the last two")


def steps_of(arguments: Mapping[str, Any], sequences: int) -> int:
    """Optimiser steps of a training on so many sequences, or prompts where the model writes several answers to each."""
    if int(arguments.get("max_steps", -1)) > 0:
        return int(arguments["max_steps"])
    if arguments.get("num_generations"):
        return max(1, math.ceil(steps_an_epoch(arguments, sequences) * float(arguments["num_train_epochs"])))
    per_step = arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"]
    return max(1, math.ceil(math.ceil(sequences / per_step) * float(arguments["num_train_epochs"])))


def _learning_rate(parameters: int, lora: bool, method: Method) -> tuple[float, str]:
    """(rate, reason). QLoRA (arXiv:2305.14314, appendix B) uses 2e-4 up to 13B and 1e-4 at 33B and 65B."""
    if rates := method.rates:
        rate = rates.full if not lora else rates.tiny if parameters < 1e8 else rates.lora
        return rate, rates.reason if rate != rates.tiny else f"{method.name}, very small model"
    if not lora:
        rate = 5e-5 if parameters < 1.5e9 else 2e-5 if parameters < 1.5e10 else 1e-5
        return rate, "full fine-tune"
    if parameters < 1e8:
        return 1e-3, "LoRA, very small model"
    return (2e-4 if parameters < 2e10 else 1e-4), "QLoRA paper, this size"


def _sequences_a_step(examples: int, sequences: int, on_cpu: bool) -> int:
    """As many as hold 8 conversations (16 of a larger set), as the usual notebooks learn a step.

    Packs hold many each; on a GPU at least four are taken, or its cores would wait for the dequantised weights.
    """
    conversations = 8 if examples < 2000 else 16
    if sequences == examples:
        return conversations
    return max(1 if on_cpu else 4, round(conversations * sequences / examples))


def _batch_size(parameters: int, wanted: int, packing: bool, on_cpu: bool) -> int:
    if on_cpu:
        return 1 if packing else min(8, wanted)  # packs are laid end to end, and the CPU's attention is quadratic
    return min(wanted, 8 if parameters < 2e9 else 4 if parameters < 5e9 else 2)


def _epochs(examples: int) -> int:
    return 3 if examples < 5000 else 2 if examples < 20000 else 1
