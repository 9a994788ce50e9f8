"""How an evaluation is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastft.evals import SAMPLES

if TYPE_CHECKING:
    from fastft.model_loading import DtypeName


@dataclass(frozen=True, slots=True)
class Options:
    """How to evaluate; see `evaluate`."""

    samples: int = SAMPLES
    max_new_tokens: int | None = None
    max_length: int | None = None
    dtype: DtypeName | None = None
    bertscore: str | None = None
    tasks: tuple[str, ...] = ()
    task_limit: int | None = None
