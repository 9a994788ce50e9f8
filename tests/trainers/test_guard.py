"""What the trainer feeds is what was audited."""

from __future__ import annotations

import pytest
from datasets import Dataset

from fastft.errors import TrainingError
from fastft.trainers.sft import guard_supervised


def test_supervised_tokens_are_counted_on_what_is_fed() -> None:
    dataset = Dataset.from_dict({"input_ids": [[1, 2, 3], [4]], "labels": [[-100, 2, 3], [-100]]})
    guard_supervised(dataset, 2)
    guard_supervised(dataset.select([1]), 0)
    with pytest.raises(TrainingError, match="would learn 2 tokens, and 3 were audited"):
        guard_supervised(dataset, 3)
