"""A Job around examples made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from fastft.data.conversation import Example
from fastft.data.store import Examples
from fastft.trainers.method import Job


def job_of(model: Any, tokenizer: Any, train: Sequence[Example], arguments: Mapping[str, Any], folder: Path) -> Job:
    """Nothing held out; what is supervised counts as audited."""
    supervised = sum(example.supervised for example in train)
    data = SimpleNamespace(
        train=Examples.of(train),
        evaluation=Examples.of([]),
        evaluation_conversations=[],
        audit=SimpleNamespace(train=SimpleNamespace(supervised=supervised)),
    )
    return Job(model, tokenizer, cast(Any, data), arguments, folder)
