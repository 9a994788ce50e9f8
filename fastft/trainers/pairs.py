"""Preference pairs as TRL's trainers take them: the ids of a prompt and of its two answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastft.data.conversation import IGNORE, Example
from fastft.trainers.sft import require_audited

if TYPE_CHECKING:
    from datasets import Dataset

# What TRL's trainers of pairs measure, by the names they log.
PAIR_MEASURES: Mapping[str, str] = {
    "rewards/accuracies": "pairs ranked right",
    "rewards/margins": "reward margin",
}


def pairs_dataset(examples: Sequence[Example]) -> Dataset:
    """Columns prompt_ids, chosen_ids, rejected_ids. `examples` are the chosen and the rejected of a row in turn."""
    from datasets import Dataset

    columns: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    sides = iter(examples)
    for chosen, rejected in zip(sides, sides, strict=True):
        prompt, answer = prompt_and_answer(chosen)
        columns["prompt_ids"].append(prompt)
        columns["chosen_ids"].append(answer)
        columns["rejected_ids"].append(prompt_and_answer(rejected)[1])
    return Dataset.from_dict(columns)


def prompt_and_answer(example: Example) -> tuple[list[int], list[int]]:
    """The ids before the first supervised one, and those from there on, which are all supervised."""
    start = next(i for i, label in enumerate(example.labels) if label != IGNORE)
    return example.input_ids[:start], example.input_ids[start:]


def guard_pairs(dataset: Any, expected: int) -> None:
    """Count the answers' tokens of what the trainer will feed. Raises TrainingError if they aren't those audited."""
    plain = dataset.with_format(None)
    columns = [name for name in ("chosen_ids", "rejected_ids") if name in plain.column_names]
    require_audited(sum(len(ids) for name in columns for ids in plain[name]), expected)
