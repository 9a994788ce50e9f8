"""Rules of methods in which the model writes the answers itself, and of what it is rewarded for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from math import gcd
from typing import Any

from fastft.recipe.clash import Clash, Given
from fastft.recipe.describe import shown
from fastft.recipe.suggest import listed, nearest
from fastft.trainers import METHODS, find_method
from fastft.trainers.groups import generation_batch

# What TRL takes where its config only says text; it would refuse others at the first step.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "importance_sampling_level": ("token", "sequence"),
    "scale_rewards": ("group", "batch", "none"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "vllm_mode": ("colocate", "server"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
}
_ATTEMPTS = "Answers to a prompt are compared with each other"


def _rewards(given: Given) -> Iterator[Clash]:
    recipe = given.recipe
    if _generates(given) and not recipe.rewards and not given.document.tree.get("rewards"):
        hint = "For example rewards: [numeric], or [{function: rewards/format.py:has_answer, weight: 0.5}, exact]"
        yield Clash(("method", "rewards"), f"found {recipe.method} without rewards", "a list of rewards", hint)
    if not _generates(given) and recipe.rewards:
        takers = [name for name in METHODS if find_method(name).generates]
        expected = f"method {' or '.join(takers)}, or no rewards"
        yield Clash(("rewards", "method"), f"found rewards with method {recipe.method}", expected)
    if recipe.rewards and not any(reward.weight for reward in recipe.rewards):
        yield Clash(("rewards",), "found weight 0 for every reward", "at least one weight other than 0")


def _groups(given: Given) -> Iterator[Clash]:
    """A generation batch holds whole groups: TRL compares the answers to a prompt within it."""
    if not _generates(given):
        return
    group = int(_known(given, "num_generations"))
    if group < 2:
        expected = "at least 2"
        yield Clash(("training.num_generations",), shown(group), expected, _ATTEMPTS)
        return
    batch, accumulation = (given.training(key) for key in _SIZES)
    steps, whole = given.training("steps_per_generation"), given.training("generation_batch_size")
    if steps is not None and whole is not None:
        keys = ("training.generation_batch_size", "training.steps_per_generation")
        yield Clash(keys, "found both", "one of them", "A generation batch is the training batch times the steps")
    elif whole is not None and batch is not None and whole % batch:
        keys = ("training.generation_batch_size", f"training.{_SIZES[0]}")
        yield Clash(keys, f"{shown(whole)} with {_SIZES[0]}: {batch}", f"a multiple of {batch}")
    elif batch is not None and (steps or whole or accumulation) is not None:
        yield from _partial(given, batch, accumulation, group)
    elif whole is not None and whole % group:
        keys = ("training.generation_batch_size", "training.num_generations")
        yield Clash(keys, f"{shown(whole)} with num_generations: {group}", f"a multiple of {group}", _ATTEMPTS)


_SIZES = ("per_device_train_batch_size", "gradient_accumulation_steps")


def _partial(given: Given, batch: int, accumulation: int | None, group: int) -> Iterator[Clash]:
    size = generation_batch({**given.recipe.training, _SIZES[0]: batch, _SIZES[1]: accumulation or 1})
    if size % group == 0:
        return
    named = ("steps_per_generation", "generation_batch_size", _SIZES[1])
    other = next(key for key in named if given.training(key) is not None)
    keys = tuple(f"training.{key}" for key in dict.fromkeys((other, _SIZES[0], "num_generations")))
    found = f"a generation batch of {size} answers with num_generations: {group}"
    times = group // gcd(batch, group)
    hint = f"With {_SIZES[0]}: {batch}, {other} has to be a multiple of {times}" if other != named[1] else _ATTEMPTS
    yield Clash(keys, found, f"a multiple of {group}", hint)


def _held_out_groups(given: Given) -> Iterator[Clash]:
    if not _generates(given):
        return
    group, batch = _known(given, "num_generations_eval"), given.training("per_device_eval_batch_size")
    if batch is not None and int(batch) % int(group):
        keys = ("training.per_device_eval_batch_size", "training.num_generations_eval")
        found = f"{shown(batch)} with num_generations_eval: {group}"
        yield Clash(keys, found, f"a multiple of {group}", _ATTEMPTS)


def _choices(given: Given) -> Iterator[Clash]:
    if not _generates(given):
        return
    for key, allowed in CHOICES.items():
        value = given.training(key)
        if value is not None and value not in allowed:
            near = nearest(str(value), allowed)
            hint = f"Did you mean {near}?" if near else ""
            yield Clash((f"training.{key}",), shown(value), f"one of {listed(allowed)}", hint)


def _vllm(given: Given) -> Iterator[Clash]:
    if _generates(given) and given.training("use_vllm") and importlib.util.find_spec("vllm") is None:
        hint = "Leave use_vllm out: transformers writes the answers then, slower and everywhere"
        yield Clash(("training.use_vllm",), "found true, and vLLM isn't installed", "an installed vLLM, or false", hint)


def _output_layer(given: Given) -> Iterator[Clash]:
    """TRL multiplies by the output layer's own weight, so an adapter on it would never be trained."""
    lora = given.recipe.lora
    if _generates(given) and lora is not None and "lm_head" in lora.target_modules:
        found = f"found lm_head with method {given.recipe.method}"
        yield Clash(("lora.target_modules", "method"), found, "modules other than lm_head", "TRL would not train it")


def _generates(given: Given) -> bool:
    return find_method(given.recipe.method).generates


def _known(given: Given, key: str) -> Any:
    """The recipe's value, else the method's default."""
    defaults = {default.key: default.value for default in find_method(given.recipe.method).defaults}
    value = given.training(key)
    return defaults[key] if value is None else value


ONLINE_RULES: tuple[Callable[[Given], Iterator[Clash]], ...] = (
    _rewards,
    _groups,
    _held_out_groups,
    _choices,
    _vllm,
    _output_layer,
)
