"""Kahneman-Tversky optimisation: TRL's KTOTrainer on single answers, each judged wanted or unwanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastft import backend
from fastft.trainers.dpo import SYNCHRONISED, require_start
from fastft.trainers.lengths import grouped_order
from fastft.trainers.method import Default, Method, Rates
from fastft.trainers.pairs import PAIR_OWNED, guard_pairs, prompt_and_answer
from fastft.trainers.refusals import refusals

if TYPE_CHECKING:
    from datasets import Dataset

    from fastft.data.conversation import Conversation, Example
    from fastft.data.prepare import PreparedData
    from fastft.trainers.method import Job

# Equation 8 of the KTO paper (arXiv:2402.01306): the weighted shares of wanted and unwanted answers, as a ratio.
_RATIO = (1.0, 4 / 3)
_SLACK = 1.1  # a ratio of 0.95 is no reason to speak up


def warn_of_imbalance(data: PreparedData, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """What to set where wanted and unwanted answers, by their weights, are further apart than the paper asks."""
    labels = [bool(conversation.label) for conversation in data.train_conversations]
    wanted, unwanted = sum(labels), len(labels) - sum(labels)
    counts = f"{wanted:,} wanted and {unwanted:,} unwanted answers"
    if not wanted or not unwanted:
        return (f"there are {counts}: KTO learns from both, and will most likely spoil the model with one alone",)
    weights = [float(arguments.get(f"{side}desirable_weight", 1.0)) for side in ("", "un")]
    good, bad = wanted * weights[0], unwanted * weights[1]
    if good * _SLACK < bad * _RATIO[0]:
        key, low, high = "desirable_weight", bad * _RATIO[0] / wanted, bad * _RATIO[1] / wanted
    elif good > bad * _RATIO[1] * _SLACK:
        key, low, high = "undesirable_weight", good / _RATIO[1] / unwanted, good / _RATIO[0] / unwanted
    else:
        return ()
    weighted = f" with weights {weights[0]:g} and {weights[1]:g}" if weights != [1.0, 1.0] else ""
    return (
        f"there are {counts}{weighted}, and KTO wants their weighted numbers between 1:1 and 4:3: "
        f"set training.{key} between {low:.3g} and {high:.3g}",
    )


METHOD = Method(
    name="kto",
    about="Kahneman-Tversky optimisation on single answers, wanted or unwanted",
    kind="unpaired",
    config=("trl", "trainer/kto_config.py", "KTOConfig"),
    rates=Rates(lora=5e-6, full=5e-7, tiny=1e-3, reason="as DPO's; the paper takes 5e-7 for all weights"),
    defaults=(Default("beta", 0.1, "TRL's"),),
    measures={
        "loss": "loss",
        "rewards/chosen": "reward of wanted answers",
        "rewards/rejected": "reward of unwanted answers",
        "rewards/margins": "reward margin",
        "kl": "distance from the start (KL)",
    },
    displayed=("rewards/margins", "kl"),
    owned={**PAIR_OWNED, **SYNCHRONISED},
    warns=warn_of_imbalance,
)


def build_trainer(job: Job) -> Any:
    """A KTOTrainer over the job's judged answers. Its reference is the model as it is now.

    Raises TrainingError if TRL refuses the arguments, or would learn other tokens than were audited.
    """
    from trl import KTOConfig, KTOTrainer  # pyright: ignore[reportPrivateImportUsage]

    data = job.data
    rows = judged_dataset(data.train, data.train_conversations)
    with refusals():
        args = KTOConfig(**job.config())
        a_step = args.per_device_train_batch_size * args.gradient_accumulation_steps
        trainer = fed_with_ids(KTOTrainer)(
            model=job.model,
            args=args,
            # TRL takes the rows in this order, and sets are often sorted by label: then no batch would have both.
            train_dataset=rows.select(feeding_order(data.train.lengths(), rows["label"], a_step, args.seed)),
            eval_dataset=judged_dataset(data.evaluation, data.evaluation_conversations)
            if len(data.evaluation)
            else None,
            callbacks=list(job.callbacks),
            processing_class=job.tokenizer,
        )
    backend.keep_adapter_in_fp32(trainer.model)
    backend.reference_is_the_base(trainer.model)
    guard_pairs(trainer.train_dataset, data.audit.train.supervised)
    require_start(trainer)
    return trainer


def feeding_order(lengths: Sequence[int], labels: Sequence[bool], a_step: int, seed: int) -> list[int]:
    """Rows by chance, those of similar lengths together: a batch is padded to its longest.

    Similar among the wanted and among the unwanted answers: where these are the shorter ones, a batch has both still.
    """
    places: list[float] = [0.0] * len(lengths)
    for label in (True, False):
        rows = sorted((row for row, known in enumerate(labels) if known is label), key=lambda row: lengths[row])
        for place, row in enumerate(rows):
            places[row] = place / len(rows)
    return grouped_order(places, a_step, seed)


def fed_with_ids(trainer: type[Any]) -> type[Any]:
    """TRL's KTOTrainer, taking the rows of `judged_dataset` as they are, with the answers its KL term is estimated by.

    TRL would tokenise texts again and guess where the answers begin.
    """

    class Prepared(trainer):
        def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, name: str) -> Any:
            columns = dataset.column_names or ()
            if "prompt_ids" not in columns:
                return super()._prepare_dataset(dataset, processing_class, args, name)
            if not self.calculate_KL or "KL_completion_ids" in columns:
                return dataset
            return with_kl_answers(dataset, args.per_device_train_batch_size)

    return Prepared


def judged_dataset(examples: Sequence[Example], conversations: Sequence[Conversation]) -> Dataset:
    """Columns prompt_ids, completion_ids and label, which is true for wanted answers. Both are in the same order."""
    from datasets import Dataset

    columns: dict[str, list[Any]] = {"prompt_ids": [], "completion_ids": [], "label": []}
    for example, conversation in zip(examples, conversations, strict=True):
        prompt, answer = prompt_and_answer(example)
        columns["prompt_ids"].append(prompt)
        columns["completion_ids"].append(answer)
        columns["label"].append(bool(conversation.label))
    return Dataset.from_dict(columns)


def with_kl_answers(dataset: Dataset, batch_size: int) -> Dataset:
    """A column more, KL_completion_ids: in each batch the answer of the row before, the first having the last's.

    TRL 1.15 makes it so inside KTOTrainer._prepare_dataset; tests/trainers/test_kto.py compares the two.
    """

    def rotated(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        answers = rows["completion_ids"]
        return {"KL_completion_ids": [answers[-1], *answers[:-1]]}

    return dataset.map(rotated, batched=True, batch_size=batch_size)
