"""Values of the lora section that are each fine and do not go together."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fastft.recipe.clash import Clash, Given
from fastft.recipe.schema import BESIDE_ADAPTER, LoraSection
from fastft.trainers import find_method

# Initialisations that take part of the base out of it, and of which the saved adapter gives it back.
RESIDUAL = ("pissa", "olora")
_OF_WHOLE_WEIGHTS = (*RESIDUAL, "orthogonal")


def is_residual(init_lora_weights: bool | str) -> bool:
    """Whether an initialisation rewrites the base weights."""
    return str(init_lora_weights).startswith(RESIDUAL)


def _start(given: Given) -> Iterator[Clash]:
    """What Unsloth and PEFT can't initialise, or can't save so that it fits the base on disk."""
    lora, model = given.recipe.lora, given.recipe.model
    if lora is None:
        return
    start, key = lora.init_lora_weights, "lora.init_lora_weights"
    if str(start).startswith(_OF_WHOLE_WEIGHTS) and not model.load_in_16bit:
        bits = "8" if model.load_in_8bit else "4"
        hint = "It works on the base weights themselves, so they can't be quantised: model.load_in_16bit: true"
        found = f"found {start} with a base in {bits} bits"
        yield Clash((key, "model.load_in_16bit"), found, "a base in 16 bits", hint)
    if is_residual(start) and lora.use_dora:
        hint = "Taken back into the original base, the magnitudes would belong to other directions"
        yield Clash((key, "lora.use_dora"), f"found {start} with use_dora: true", "one of them", hint)
    if start == "orthogonal" and lora.r % 2:
        yield Clash((key, "lora.r"), f"found orthogonal with r: {lora.r}", "an even r")


def _beside_adapter(given: Given) -> Iterator[Clash]:
    """An adapter that training goes on with has its own rank, scale and layers."""
    lora = given.recipe.lora
    if lora is None or lora.adapter_name_or_path is None:
        return
    if find_method(given.recipe.method).classifies:
        found, hint = f"found with method {given.recipe.method}", "Its head would have to be the adapter's"
        yield Clash(("lora.adapter_name_or_path", "method"), found, "a new adapter", hint)
    for key in LoraSection.model_fields:
        if key not in BESIDE_ADAPTER and given.written(f"lora.{key}"):
            keys = (f"lora.{key}", "lora.adapter_name_or_path")
            hint = f"The adapter in {lora.adapter_name_or_path} has its own; leave {key} out"
            yield Clash(keys, f"{key} beside adapter_name_or_path", "one of them", hint)


LORA_RULES: tuple[Callable[[Given], Iterator[Clash]], ...] = (_start, _beside_adapter)
