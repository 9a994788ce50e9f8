"""What a method that learns raw texts has no use for in the data section."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fastft.recipe.clash import Clash, Given
from fastft.recipe.describe import shown
from fastft.trainers import find_method

# key -> the values that say what is done anyhow
_ANYHOW = {"format": ("auto", "text"), "train_on": ("all",), "truncation": ("split_turns",)}


def _whole_texts(given: Given) -> Iterator[Clash]:
    method = given.recipe.method
    if not find_method(method).texts:
        return
    for key, values in _ANYHOW.items():
        value = getattr(given.recipe.data, key)
        if given.written(f"data.{key}") and value not in values:
            hint = "Texts are learned whole: what is longer than the maximum length goes on in the next sequence"
            found = f"{shown(value)} with method: {method}"
            yield Clash((f"data.{key}", "method"), found, f"{' or '.join(values)}, or no {key}", hint)
    if given.training("packing") is False and given.training("packing_strategy") is not None:
        found = f"{shown(given.training('packing_strategy'))} with packing: false"
        yield Clash(("training.packing_strategy", "training.packing"), found, "packing: true")
    if given.written("evaluation.samples") and given.recipe.evaluation.samples:
        found = f"{shown(given.recipe.evaluation.samples)} with method: {method}"
        hint = "Texts have no answers to compare; the loss on held-out ones is measured"
        yield Clash(("evaluation.samples", "method"), found, "0, or no samples", hint)


TEXT_RULES: tuple[Callable[[Given], Iterator[Clash]], ...] = (_whole_texts,)
