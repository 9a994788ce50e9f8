"""Rules of reward models, whose output is a score. See `contradictions`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fastft.exporters.classifier import SCORING_FORMATS
from fastft.recipe.clash import Clash, Given
from fastft.trainers import find_method


def _no_text(given: Given) -> Iterator[Clash]:
    recipe = given.recipe
    if not find_method(recipe.method).classifies:
        return
    method = f"method: {recipe.method}"
    hint = "A reward model gives a score, not text"
    for name in recipe.export.formats:
        if name not in SCORING_FORMATS:
            yield Clash(("export.formats", "method"), f"found {name} with {method}", "merged_16bit or adapter", hint)
    if recipe.evaluation.prompts:
        yield Clash(("evaluation.prompts", "method"), f"found prompts with {method}", "no prompts", hint)


REWARD_RULES: tuple[Callable[[Given], Iterator[Clash]], ...] = (_no_text,)
