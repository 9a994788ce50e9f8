"""Reward modelling: TRL's RewardTrainer teaches a model to score the better answer of a pair higher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastft import backend
from fastft.trainers.method import Method, Rates
from fastft.trainers.pairs import guard_pairs, pairs_dataset
from fastft.trainers.refusals import refusals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset

    from fastft.data.conversation import Example
    from fastft.trainers.method import Job

METHOD = Method(
    name="reward",
    about="a reward model from pairs of answers",
    kind="preference",
    config=("trl", "trainer/reward_config.py", "RewardConfig"),
    rates=Rates(lora=1e-4, full=1e-5, tiny=1e-3, reason="TRL's reward example"),
    measures={"loss": "loss", "accuracy": "pairs ranked right", "margin": "score margin"},
    displayed=("accuracy", "margin"),
    sequences=2,
    padded=True,
    classifies=True,
)


def build_trainer(job: Job) -> Any:
    """A RewardTrainer over the job's pairs; its model has one score as its output.

    Raises TrainingError if TRL refuses the arguments, or would feed other tokens than were audited.
    """
    from trl import RewardConfig, RewardTrainer  # pyright: ignore[reportPrivateImportUsage]

    data = job.data
    with refusals():
        trainer = RewardTrainer(
            model=job.model,
            args=RewardConfig(**job.config()),
            train_dataset=scored_dataset(data.train),
            eval_dataset=scored_dataset(data.evaluation) if len(data.evaluation) else None,
            callbacks=list(job.callbacks),
            processing_class=job.tokenizer,
        )
    backend.keep_adapter_in_fp32(trainer.model)
    prompts = 2 * sum(len(ids) for ids in pairs_dataset(data.train)["prompt_ids"])
    guard_pairs(trainer.train_dataset, data.audit.train.supervised + prompts)
    return trainer


def scored_dataset(examples: Sequence[Example]) -> Dataset:
    """Prompt and answer together, as the model scores them."""
    from datasets import Dataset

    sides = iter(examples)
    pairs = [(chosen.input_ids, rejected.input_ids) for chosen, rejected in zip(sides, sides, strict=True)]
    return Dataset.from_dict({"chosen_ids": [a for a, _ in pairs], "rejected_ids": [b for _, b in pairs]})
