"""Rules of models that bring code of their own, and of what mustn't stand in a recipe. See `contradictions`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fastft.recipe.clash import Clash, Given
from fastft.redaction import holds_secret


def _exports_need_no_code(given: Given) -> Iterator[Clash]:
    """What is exported is loaded again to be proven, and a model's code runs while training only."""
    recipe = given.recipe
    if recipe.model.trust_remote_code and recipe.export.formats:
        found = f"found {recipe.export.formats[0]} with model.trust_remote_code"
        hint = "Exports are loaded again to be proven, and there no code runs; the adapter lies in the run's folder"
        yield Clash(("export.formats", "model.trust_remote_code"), found, "no exports", hint)


def _no_secrets(given: Given) -> Iterator[Clash]:
    """A recipe is copied into the run, and into the card of what is uploaded."""
    for key, text in _texts(given.recipe.as_dict()):
        if holds_secret(text):
            hint = "Recipes are copied into runs and model cards; a secret belongs into a variable such as HF_TOKEN"
            yield Clash((key,), "found what looks like a token, a key or a password", "no secret", hint)


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a recipe with its dotted key; of a list, the list's."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, key)


CODE_RULES: tuple[Callable[[Given], Iterator[Clash]], ...] = (_exports_need_no_code, _no_secrets)
