"""Batches of methods that compare several answers to each prompt: how many, and how many steps they make."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_PROMPTS_A_STEP = 4
_MOST_AT_ONCE = 16  # answers computed at a time


def batch_sizes(known: Mapping[str, Any], prompts: int) -> tuple[int, int]:
    """(batch, accumulation) that make up whole groups of answers, four prompts a step where nothing else is said."""
    group = int(known["num_generations"])
    batch = int(known.get("per_device_train_batch_size") or _largest_divisor(group))
    given = known.get("gradient_accumulation_steps") or known.get("steps_per_generation")
    if given is None and (whole := known.get("generation_batch_size")):
        given = max(1, int(whole) // batch)
    if given is not None:
        return batch, int(given)
    least = group // math.gcd(batch, group)  # batches that hold whole groups
    return batch, least * max(1, round(min(_PROMPTS_A_STEP, prompts) * group / (batch * least)))


def _largest_divisor(group: int) -> int:
    return max(size for size in range(1, _MOST_AT_ONCE + 1) if group % size == 0)


def generation_batch(arguments: Mapping[str, Any]) -> int:
    """Answers that are written at a time, as TRL's config computes them."""
    if whole := arguments.get("generation_batch_size"):
        return int(whole)
    steps = arguments.get("steps_per_generation") or arguments["gradient_accumulation_steps"]
    return int(arguments["per_device_train_batch_size"]) * int(steps)


def fewer_answers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What of the arguments is another where fewer answers are written at a time, nothing where none can be.

    A step learns from as many answers to the same prompts. Whole groups stay together; where answers are learned from
    several times, a step's are written together.
    """
    batch, accumulation, group = (
        int(arguments[key]) for key in ("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations")
    )
    steps, again = generation_batch(arguments) // batch, int(arguments.get("num_iterations") or 1) > 1
    less = [(batch, fewer) for fewer in _divisors_below(steps)] + [(size, steps) for size in _divisors_below(batch)]
    for size, fewer in less:
        taken = accumulation * batch // size
        if size * fewer % group == 0 and not (again and fewer % taken):
            changed = {"per_device_train_batch_size": size, "gradient_accumulation_steps": taken}
            whole = {"generation_batch_size": None} if arguments.get("generation_batch_size") else {}
            return {**(changed if size < batch else {}), "steps_per_generation": fewer, **whole}
    return {}


def _divisors_below(number: int) -> list[int]:
    """The largest first."""
    return [each for each in range(number // 2, 0, -1) if number % each == 0]


def prompts_at_a_time(arguments: Mapping[str, Any]) -> int:
    """Prompts answered at a time; where fewer are left of an epoch, they are not seen in it."""
    return generation_batch(arguments) // int(arguments["num_generations"])


def batches_an_epoch(arguments: Mapping[str, Any], prompts: int) -> int:
    """Micro-batches of one pass over the prompts, as TRL's RepeatSampler makes them."""
    steps_a_batch = generation_batch(arguments) // int(arguments["per_device_train_batch_size"])
    rounds = prompts // prompts_at_a_time(arguments)
    return rounds * steps_a_batch * int(arguments.get("num_iterations") or 1)


def longest_answers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What of the arguments is another where as many answers are written at a time, each as long as it may be."""
    longest = {"min_new_tokens": int(arguments["max_completion_length"])}
    return {
        "steps_per_generation": generation_batch(arguments) // int(arguments["per_device_train_batch_size"]),
        "generation_batch_size": None,
        "generation_kwargs": {**(arguments.get("generation_kwargs") or {}), **longest},
    }
