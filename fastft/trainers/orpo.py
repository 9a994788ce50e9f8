"""Odds ratio preference optimisation: TRL's ORPOTrainer on pairs of answers. It needs no reference model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastft.trainers.method import Default, Method, Rates
from fastft.trainers.pairs import PAIR_MEASURES, PAIR_OWNED, build_labelled

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
    padded=True,
)


def build_trainer(job: Job) -> Any:
    """An ORPOTrainer over the job's pairs. See `build_labelled`."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return build_labelled(job, ORPOTrainer, ORPOConfig)
