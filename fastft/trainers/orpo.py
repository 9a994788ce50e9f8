"""Odds ratio preference optimisation: TRL's ORPOTrainer on pairs of answers. It needs no reference model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastft import backend
from fastft.trainers.method import Default, Method, Rates
from fastft.trainers.pairs import PAIR_MEASURES, PAIR_OWNED, fed_with_labels, guard_pairs, labelled_pairs_dataset
from fastft.trainers.refusals import refusals

if TYPE_CHECKING:
    from fastft.trainers.method import Job

METHOD = Method(
    name="orpo",
    about="odds ratio preference optimisation: learns the chosen answers and to prefer them, in one training",
    kind="preference",
    config=("trl", "experimental/orpo/orpo_config.py", "ORPOConfig"),
    rates=Rates(lora=8e-6, full=5e-6, tiny=1e-3, reason="Unsloth's ORPO notebook"),
    defaults=(Default("beta", 0.1, "TRL's, lambda in the paper"),),
    measures={
        "loss": "loss",
        "nll_loss": "loss of chosen texts",
        "log_odds_chosen": "log odds of the chosen answers",
        **PAIR_MEASURES,
    },
    displayed=("rewards/accuracies", "log_odds_chosen"),
    owned=PAIR_OWNED,
    sequences=2,
)


def build_trainer(job: Job) -> Any:
    """An ORPOTrainer over the job's pairs.

    Raises TrainingError if TRL refuses the arguments, or would learn other tokens than were audited.
    """
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    data = job.data
    with refusals():
        trainer = fed_with_labels(ORPOTrainer)(
            model=job.model,
            args=ORPOConfig(remove_unused_columns=False, **job.config()),
            train_dataset=labelled_pairs_dataset(data.train),
            eval_dataset=labelled_pairs_dataset(data.evaluation) if len(data.evaluation) else None,
            callbacks=list(job.callbacks),
            processing_class=job.tokenizer,
        )
    backend.keep_adapter_in_fp32(trainer.model)
    guard_pairs(trainer.train_dataset, data.audit.train.supervised)
    return trainer
