"""Preference pairs as TRL's trainers take them: the ids of a prompt and of its two answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastft import backend
from fastft.data.conversation import IGNORE, Example
from fastft.trainers.refusals import refusals
from fastft.trainers.sft import require_audited

if TYPE_CHECKING:
    from datasets import Dataset

    from fastft.trainers.method import Job

# What TRL's trainers of pairs measure, by the names they log.
PAIR_MEASURES: Mapping[str, str] = {
    "rewards/accuracies": "reward accuracy",
    "rewards/margins": "reward margin",
}

# Fields that trainers which don't compute their loss in transformers' way never read, or read for texts only.
PAIR_OWNED: Mapping[str, str] = {
    "label_smoothing_factor": "it is for supervised fine-tuning; where a loss takes label_smoothing, set that",
    "max_completion_length": "it is for encoder-decoder models; answers are cut by max_length",
    "is_encoder_decoder": "the model's own config says it",
    "padding_value": "padding comes from the model's tokenizer; padded places are never trained on",
    "padding_free": "TRL has switched it off for now",
    "generate_during_eval": "set evaluation.prompts, which are answered before and after training",
}

_SIDES = ("chosen", "rejected")
_ANSWERS = ("chosen_ids", "rejected_ids", "completion_ids", "chosen_labels", "rejected_labels")


def pairs_dataset(examples: Sequence[Example]) -> Dataset:
    """Columns prompt_ids, chosen_ids, rejected_ids. `examples` are the chosen and the rejected of a row in turn."""
    from datasets import Dataset

    columns: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    for chosen, rejected in _in_pairs(examples):
        prompt, answer = prompt_and_answer(chosen)
        columns["prompt_ids"].append(prompt)
        columns["chosen_ids"].append(answer)
        columns["rejected_ids"].append(prompt_and_answer(rejected)[1])
    return Dataset.from_dict(columns)


def labelled_pairs_dataset(examples: Sequence[Example]) -> Dataset:
    """Columns {chosen,rejected}_{input_ids,attention_mask,labels}, which TRL's ORPO and CPO make of texts."""
    from datasets import Dataset

    columns: dict[str, list[list[int]]] = {
        f"{side}_{part}": [] for side in _SIDES for part in ("input_ids", "attention_mask", "labels")
    }
    for pair in _in_pairs(examples):
        for side, example in zip(_SIDES, pair, strict=True):
            columns[f"{side}_input_ids"].append(example.input_ids)
            columns[f"{side}_attention_mask"].append([1] * len(example.input_ids))
            columns[f"{side}_labels"].append(example.labels)
    return Dataset.from_dict(columns)


def fed_with_labels(trainer: type[Any]) -> type[Any]:
    """TRL's ORPO or CPO trainer, taking the rows of `labelled_pairs_dataset` as they are.

    TRL would tokenise texts again, guess where the answers begin, and cut them by a rule of its own.
    """

    class Prepared(trainer):
        def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
            return feature if "chosen_labels" in feature else super().tokenize_row(feature, model)

    return Prepared


def prompt_and_answer(example: Example) -> tuple[list[int], list[int]]:
    """The ids before the first supervised one, and those from there on, which are all supervised."""
    start = next(i for i, label in enumerate(example.labels) if label != IGNORE)
    return example.input_ids[:start], example.input_ids[start:]


def build_labelled(job: Job, trainer_class: type[Any], config_class: type[Any]) -> Any:
    """A trainer of TRL's experimental ones over the job's pairs, which takes labels and has no reference.

    Raises TrainingError if TRL refuses the arguments, or would learn other tokens than were audited.
    """
    data = job.data
    with refusals():
        trainer = fed_with_labels(trainer_class)(
            model=job.model,
            args=config_class(remove_unused_columns=False, **job.config()),
            train_dataset=labelled_pairs_dataset(data.train),
            eval_dataset=labelled_pairs_dataset(data.evaluation) if len(data.evaluation) else None,
            callbacks=list(job.callbacks),
            processing_class=job.tokenizer,
        )
    backend.keep_adapter_in_fp32(trainer.model)
    guard_pairs(trainer.train_dataset, data.audit.train.supervised)
    return trainer


def guard_pairs(dataset: Any, expected: int) -> None:
    """Count the answers' tokens of what the trainer will feed. Raises TrainingError if they aren't those audited."""
    fed = [name for name in dataset.column_names if name in _ANSWERS]
    require_audited(sum(_supervised(dataset, name) for name in fed), expected)


def _supervised(dataset: Any, column: str) -> int:
    """Tokens in a column of lists of ids or labels that the loss is about."""
    rows, found = dataset.with_format("arrow"), 0
    for start in range(0, len(dataset), 10_000):
        for chunk in rows[start : start + 10_000][column].chunks:
            found += int((chunk.flatten().to_numpy() != IGNORE).sum())
    return found


def _in_pairs(examples: Sequence[Example]) -> Iterator[tuple[Example, Example]]:
    sides = iter(examples)
    return zip(sides, sides, strict=True)
