"""Supervised fine-tuning: TRL's SFTTrainer, fed with token ids and labels that rendering made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastft import backend
from fastft.data.conversation import IGNORE
from fastft.data.packing import why_not_packed
from fastft.errors import TrainingError
from fastft.trainers.method import Method
from fastft.trainers.refusals import refusals

if TYPE_CHECKING:
    from fastft.trainers.method import Job

METHOD = Method(
    name="sft",
    about="supervised fine-tuning",
    kind="conversation",
    config=("trl", "trainer/sft_config.py", "SFTConfig"),
)


def build_trainer(job: Job) -> Any:
    """An SFTTrainer over the job's examples.

    Raises TrainingError if TRL refuses the arguments, or would learn other tokens than were audited.
    """
    # By these names, because unsloth puts its own classes behind them.
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

    arguments, data = job.arguments, job.data
    # Nothing is left to prepare: every example is ids and labels within max_length. TRL would go over each again.
    prepared = {} if arguments.get("packing") else {"dataset_kwargs": {"skip_prepare_dataset": True}}
    with refusals():
        trainer = SFTTrainer(
            model=job.model,
            args=SFTConfig(**{"prediction_loss_only": True, **prepared, **job.config()}),
            train_dataset=data.train.dataset(),
            eval_dataset=data.evaluation.dataset() if job.evaluates else None,
            callbacks=list(job.callbacks),
            processing_class=job.tokenizer,
        )
    backend.keep_adapter_in_fp32(trainer.model)
    if backend.uses_cpu_backend():
        _without_padding(trainer, arguments)
    guard_supervised(trainer.train_dataset, data.audit.train.supervised)
    return trainer


def _without_padding(trainer: Any, arguments: Mapping[str, Any]) -> None:
    """Packs, or batches of whole documents end to end: the CPU backend of Unsloth would pad both."""
    if arguments.get("packing"):
        backend.pack_on_cpu(trainer, int(arguments["max_length"]), str(arguments.get("packing_strategy", "bfd")))
        return
    apart = why_not_packed(trainer.model.config.get_text_config().model_type) is None
    if apart and arguments.get("padding_free") is not False:
        backend.lay_end_to_end(trainer)


def guard_supervised(dataset: Any, expected: int) -> None:
    """Count the supervised tokens of what the trainer will really feed, after its packing and truncation.

    Raises TrainingError if it isn't the `expected` number that was audited: TRL or Unsloth changed the labels.
    """
    columns = dataset.with_format("arrow")
    found = 0
    for start in range(0, len(dataset), 10_000):
        for chunk in columns[start : start + 10_000]["labels"].chunks:
            first, last = chunk.offsets[0].as_py(), chunk.offsets[-1].as_py()
            found += int((chunk.values.to_numpy()[first:last] != IGNORE).sum())
    require_audited(found, expected)


def require_audited(found: int, expected: int) -> None:
    """Raises TrainingError if the trainer would learn another number of tokens than was audited."""
    if found != expected:
        raise TrainingError(
            f"the trainer would learn {found:,} tokens, and {expected:,} were audited: its labels are not ours",
            hint="This is a fault of fastft with this version of TRL or Unsloth; the run's train.log may say more.",
        )
