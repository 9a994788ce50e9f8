"""The training arguments a recipe leaves out, chosen by model size, data and device, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from fastft.recipe.trl_config import config_fields
from fastft.trainers.epochs import steps_an_epoch
from fastft.trainers.groups import batch_sizes
from fastft.trainers.method import Default, Method
from fastft.trainers.micro_batch import Room, choose_micro_batch

# Of a model whose size isn't known, and so not what fits: little.
UNKNOWN_ROOM = Room(fits=lambda way: 4096 if way else 0, worth=4096, ways=("unsloth",))
_UNITS = {"preference": "pairs", "unpaired": "answers"}
_EVALUATED = 8  # sequences of a batch of the evaluation at most, as TRL's


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
    room: Room = UNKNOWN_ROOM,
    mean: float = 0.0,
    longest: int = 0,
) -> tuple[Default, ...]:
    """What is left out of `given`, chosen for a method. `parameters` is a count, `max_length` is in tokens.

    `examples` are the conversations to learn, `sequences` what they are fed as: fewer, where they are packed. Such a
    sequence holds `mean` tokens, and `longest` at most (0: `max_length`).
    """
    own = {default.key: default for default in method.defaults if default.key not in given}
    if "max_steps" in given:
        own.pop("num_train_epochs", None)
    known = {**{key: default.value for key, default in own.items()}, **given}
    length = longest or max_length
    batches = tuple(_batches(known, method, room, examples, sequences, mean or length, length))
    chosen = [
        *own.values(),
        Default("learning_rate", *_learning_rate(parameters, lora, method)),
        *batches,
        Default("optim", "adamw_torch_fused" if on_cpu else "adamw_8bit", "on the CPU" if on_cpu else "8-bit states"),
        Default("lr_scheduler_type", "linear", "Unsloth's notebooks"),
        Default("weight_decay", 0.01, "Unsloth's notebooks"),
        Default("max_length", max_length, "model.max_seq_length"),
        Default("seed", 3407, "Unsloth's"),
        Default("logging_steps", 1, "into metrics.jsonl"),
    ]
    if "max_steps" not in given:
        chosen.insert(len(own) + 1, Default("num_train_epochs", _epochs(examples), f"{examples:,} examples"))
    chosen += _by_steps(given, steps_of({**{d.key: d.value for d in chosen}, **known}, sequences))
    fields, taken = config_fields(method.name), set(given)
    unique = {default.key: default for default in reversed(chosen)}  # the method's own wins
    return tuple(unique[d.key] for d in chosen if unique[d.key] is d and d.key in fields and d.key not in taken)


def _batches(
    known: Mapping[str, Any], method: Method, room: Room, examples: int, sequences: int, mean: float, longest: int
) -> Iterator[Default]:
    """Micro-batch, accumulation, what is recomputed, the evaluation's batch, and which rows go together."""
    wanted = _sequences_a_step(examples, sequences)
    size, given = known.get("per_device_train_batch_size"), known.get("gradient_accumulation_steps")
    if method.generates:
        size, given = batch_sizes(known, examples)
    chosen = choose_micro_batch(room, wanted, mean=mean, longest=longest, batch=size, accumulation=given)
    batch = max(chosen.batch, 2 if method.kind == "unpaired" and size is None else 1)  # KTO's KL is within a batch
    yield Default("per_device_train_batch_size", batch, f"about {round(batch * mean):,} tokens at a time")
    yield Default(
        "gradient_accumulation_steps",
        chosen.accumulation,
        f"{batch * chosen.accumulation} {_UNITS.get(method.kind, 'sequences')} a step",
    )
    why = "fits only so" if chosen.checkpointing else "fits without recomputing"
    why = why if len(room.ways) > 1 else "as the recipe says"
    yield Default("gradient_checkpointing", bool(chosen.checkpointing), why)
    evaluated = max(1, min(_EVALUATED, max(batch, chosen.fitting)))
    yield Default("per_device_eval_batch_size", evaluated, "fits where training does")
    if method.padded:
        yield Default("train_sampling_strategy", "group_by_length", "less padding")


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
    return max(1, math.ceil(steps_an_epoch(arguments, sequences) * float(arguments["num_train_epochs"])))


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


def _sequences_a_step(examples: int, sequences: int) -> int:
    """As many as hold 8 conversations (16 of a larger set), as the usual notebooks learn a step. Packs hold many."""
    conversations = 8 if examples < 2000 else 16
    return max(1, round(conversations * sequences / examples))


def _epochs(examples: int) -> int:
    return 3 if examples < 5000 else 2 if examples < 20000 else 1
