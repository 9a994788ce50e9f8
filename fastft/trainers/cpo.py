"""Contrastive preference optimisation, SimPO and AlphaPO: TRL's CPOTrainer on pairs of answers, without a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastft.trainers.method import Default, Method, Rates
from fastft.trainers.pairs import PAIR_MEASURES, PAIR_OWNED, build_labelled

if TYPE_CHECKING:
    from fastft.trainers.method import Job

METHOD = Method(
    name="cpo",
    about="contrastive preference optimisation; SimPO with loss_type: simpo and cpo_alpha: 0",
    kind="preference",
    config=("trl", "experimental/cpo/cpo_config.py", "CPOConfig"),
    rates=Rates(lora=5e-6, full=1e-6, tiny=5e-4, reason="as DPO's; SimPO's authors take 3e-7 to 1e-6 for all weights"),
    defaults=(Default("beta", 0.1, "TRL's; SimPO wants 2 to 10"),),
    measures={"loss": "loss", "logps/chosen": "log-probability of chosen answers", **PAIR_MEASURES},
    displayed=("rewards/accuracies", "rewards/margins"),
    owned=PAIR_OWNED,
    sequences=2,
    padded=True,
)


def build_trainer(job: Job) -> Any:
    """A CPOTrainer over the job's pairs. See `build_labelled`."""
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    return build_labelled(job, CPOTrainer, CPOConfig)
