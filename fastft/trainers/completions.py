"""completions.jsonl: what a model answered while it trained, and what each answer was rewarded with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastft.lines import append_lines, keep_until


class CompletionLog:
    """A line an answer: step, prompt, completion, rewards by name, and their weighted sum.

    The step is the one that first learns from the answer. Where a run goes on from a checkpoint, what was written
    after it is taken out first: those steps are taken again, and each answer shall stand there once.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path = path
        self._names = tuple(names)
        self._begun = False

    def add(self, done: int, prompts: Sequence[Any], completions: Sequence[Any], rewards: Any, weights: Any) -> None:
        """Append answers that were written after `done` steps. `rewards` is (answers, functions), NaN for None."""
        if not self._begun:
            keep_until(self.path, done)
            self._begun = True
        totals = (rewards * weights.to(rewards.device)).nansum(dim=1).tolist()
        answers = zip(prompts, completions, rewards.tolist(), totals, strict=True)
        append_lines(
            self.path,
            *(
                {"step": done + 1, "prompt": prompt, "completion": _said(completion)}
                | {"rewards": self._named(values), "reward": total}
                for prompt, completion, values, total in answers
            ),
        )

    def _named(self, values: Sequence[float]) -> dict[str, float | None]:
        return {n: None if math.isnan(v) else v for n, v in zip(self._names, values, strict=True)}


def _said(completion: Any) -> Any:
    """The text of a plain answer; messages with more in them as they are."""
    if isinstance(completion, list) and len(completion) == 1 and set(completion[0]) == {"role", "content"}:
        return completion[0]["content"]
    return completion
