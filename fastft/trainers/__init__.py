"""One file a training method, each with its METHOD and its `build_trainer(job)`. The table is the whole registry."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastft.trainers.method import Job, Method

METHODS: dict[str, str] = {
    "sft": "fastft.trainers.sft",
    "dpo": "fastft.trainers.dpo",
    "reward": "fastft.trainers.reward",
    "kto": "fastft.trainers.kto",
    "cpo": "fastft.trainers.cpo",
    "orpo": "fastft.trainers.orpo",
    "grpo": "fastft.trainers.grpo",
    "rloo": "fastft.trainers.rloo",
    "pretrain": "fastft.trainers.pretrain",
}


def find_method(name: str) -> Method:
    """The Method of a name in METHODS."""
    return import_module(METHODS[name]).METHOD


def trainer_builder(name: str) -> Callable[[Job], Any]:
    """The `build_trainer` of a name in METHODS, which also sees to rows of similar lengths going together."""
    module = import_module(METHODS[name])

    def build(job: Job) -> Any:
        from fastft.trainers.lengths import group_by_length, row_lengths

        trainer = module.build_trainer(job)
        if job.arguments.get("train_sampling_strategy") == "group_by_length":
            group_by_length(trainer, row_lengths(job.data.train.lengths(), module.METHOD.sequences))
        return trainer

    return build
