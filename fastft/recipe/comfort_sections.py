"""What makes training more comfortable, for every method: when it ends early, who else listens, rates by weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from fastft.recipe import checks
from fastft.recipe.section import Section


class EarlyStoppingSection(Section):
    """Arguments of transformers' EarlyStoppingCallback. What improves is training.metric_for_best_model, or loss."""

    patience: int = Field(default=3, ge=1, description="Evaluations in a row without improvement that end training.")
    threshold: float = Field(default=0.0, ge=0, description="By how much it has to improve to count.")


def check_learning_rates(value: Any) -> dict[str, float]:
    """Regular expression over parameter names -> rate."""
    if not isinstance(value, Mapping):
        raise checks.fault("", hint="For example learning_rates: {embed_tokens|lm_head: 5e-5}")
    for pattern, rate in value.items():
        checks.check_pattern(str(pattern))
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise checks.fault("a rate above 0 and at most 1", found=f"found {rate} for {pattern}")
    return {str(pattern): float(rate) for pattern, rate in value.items()}
