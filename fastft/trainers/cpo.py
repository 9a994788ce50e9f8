"""Contrastive preference optimisation, SimPO and AlphaPO: TRL's CPOTrainer on pairs of answers, without a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastft import backend
from fastft.trainers.method import Default, Method, Rates
from fastft.trainers.pairs import PAIR_MEASURES, PAIR_OWNED, fed_with_labels, guard_pairs, labelled_pairs_dataset
from fastft.trainers.refusals import refusals

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
)


def build_trainer(job: Job) -> Any:
    """A CPOTrainer over the job's pairs.

    Raises TrainingError if TRL refuses the arguments, or would learn other tokens than were audited.
    """
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    data = job.data
    with refusals():
        trainer = fed_with_labels(CPOTrainer)(
            model=job.model,
            args=CPOConfig(remove_unused_columns=False, **job.config()),
            train_dataset=labelled_pairs_dataset(data.train),
            eval_dataset=labelled_pairs_dataset(data.evaluation) if len(data.evaluation) else None,
            callbacks=list(job.callbacks),
            processing_class=job.tokenizer,
        )
    backend.keep_adapter_in_fp32(trainer.model)
    guard_pairs(trainer.train_dataset, data.audit.train.supervised)
    return trainer
