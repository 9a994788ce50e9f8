"""Supervised fine-tuning: TRL's SFTTrainer, fed with token ids and labels that rendering made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastft import backend
from fastft.data.conversation import Example
from fastft.errors import TrainingError

# No remote reporting, one progress display (ours), and evaluation without keeping logits, unless the recipe says so.
_ALWAYS: dict[str, Any] = {"report_to": "none", "disable_tqdm": True, "prediction_loss_only": True}


def build_trainer(
    model: Any,
    tokenizer: Any,
    train: Sequence[Example],
    evaluation: Sequence[Example],
    arguments: Mapping[str, Any],
    checkpoints: Path,
    callbacks: Sequence[Any] = (),
) -> Any:
    """An SFTTrainer over the examples. `arguments` are SFTConfig's fields, defaults resolved.

    Raises TrainingError if TRL refuses the arguments.
    """
    # By these names, because unsloth puts its own classes behind them.
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

    evaluates = bool(evaluation) and str(arguments.get("eval_strategy", "no")) != "no"
    try:
        config = SFTConfig(output_dir=str(checkpoints), **{**_ALWAYS, **arguments})
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=_dataset(train),
            eval_dataset=_dataset(evaluation) if evaluates else None,
            callbacks=list(callbacks),
            processing_class=tokenizer,
        )
    except (ValueError, TypeError) as error:
        raise TrainingError(
            f"TRL refuses the training arguments: {error}", hint="See `training:` in the recipe."
        ) from error
    backend.keep_adapter_in_fp32(trainer.model)
    if arguments.get("packing") and backend.uses_cpu_backend():
        backend.pack_on_cpu(trainer, int(arguments["max_length"]), str(arguments.get("packing_strategy", "bfd")))
    return trainer


def _dataset(examples: Sequence[Example]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict({"input_ids": [e.input_ids for e in examples], "labels": [e.labels for e in examples]})
