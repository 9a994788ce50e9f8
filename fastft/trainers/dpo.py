"""Direct preference optimisation: TRL's DPOTrainer on pairs of answers, with all its loss types."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fastft import backend
from fastft.errors import TrainingError
from fastft.trainers.measuring import measure
from fastft.trainers.method import Default, Method, Rates
from fastft.trainers.pairs import PAIR_MEASURES, PAIR_OWNED, guard_pairs, pairs_dataset
from fastft.trainers.refusals import refusals

if TYPE_CHECKING:
    from fastft.trainers.method import Job

# Rewards that 16-bit rounding alone may give; 0.02 moves the sigmoid loss by 0.01 from ln 2. In 32 bits they are 0.
_ROUNDING = 0.02

SYNCHRONISED = dict.fromkeys(
    ("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"),
    "the reference is the model without its adapter, which has nothing to be synchronised",
)

METHOD = Method(
    name="dpo",
    about="direct preference optimisation on pairs of answers",
    kind="preference",
    config=("trl", "trainer/dpo_config.py", "DPOConfig"),
    rates=Rates(lora=5e-6, full=5e-7, tiny=2e-4, reason="Unsloth's DPO notebook"),
    defaults=(Default("beta", 0.1, "TRL's"),),
    measures={"loss": "loss", **PAIR_MEASURES},
    displayed=("rewards/accuracies", "rewards/margins"),
    owned={**PAIR_OWNED, **SYNCHRONISED},
    sequences=2,
    padded=True,
)


def build_trainer(job: Job) -> Any:
    """A DPOTrainer over the job's pairs. Its reference is the model as it is now.

    Raises TrainingError if TRL refuses the arguments, or would learn other tokens than were audited.
    """
    from trl import DPOConfig, DPOTrainer  # pyright: ignore[reportPrivateImportUsage]

    data = job.data
    with refusals():
        trainer = fed_with_ids(DPOTrainer)(
            model=job.model,
            args=DPOConfig(**job.config()),
            train_dataset=pairs_dataset(data.train),
            eval_dataset=pairs_dataset(data.evaluation) if len(data.evaluation) else None,
            callbacks=list(job.callbacks),
            processing_class=job.tokenizer,
        )
    backend.keep_adapter_in_fp32(trainer.model)
    backend.reference_is_the_base(trainer.model)
    guard_pairs(trainer.train_dataset, data.audit.train.supervised)
    require_start(trainer)
    return trainer


def fed_with_ids(trainer: type[Any]) -> type[Any]:
    """TRL's DPOTrainer, taking the rows of `pairs_dataset` as they are.

    TRL would tokenise texts again and guess where the answers begin.
    """

    class Prepared(trainer):
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            if "prompt_ids" in (dataset.column_names or ()):
                return dataset
            return super()._prepare_dataset(dataset, *args, **kwargs)

    return Prepared


def require_start(trainer: Any) -> None:
    """Policy and reference are the same model before the first step: no reward, and a sigmoid loss of ln 2.

    Raises TrainingError otherwise: the policy would be held to a model that nobody chose.
    """
    fed = trainer.train_dataset
    known = [name for name in fed.column_names if name.startswith("ref_")]  # precomputed; evaluate() adds them again
    rows = fed.select(range(min(len(fed), 2 * trainer.args.per_device_eval_batch_size))).remove_columns(known)
    found = measure(trainer, rows)
    rewards = [abs(found[key]) for key in ("rewards/chosen", "rewards/rejected", "rewards/margins") if key in found]
    furthest = max(rewards, default=math.inf)
    if furthest > _ROUNDING:
        raise TrainingError(
            f"the policy isn't its own reference before training: rewards of {furthest:.4f} where 0 is expected",
            hint="This is a fault of fastft with this version of TRL or Unsloth; the run's train.log may say more.",
        )
