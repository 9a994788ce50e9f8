"""Supervised fine-tuning: TRL's SFTTrainer, fed with token ids and labels that rendering made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastft import backend
from fastft.data.conversation import Example
from fastft.data.store import Examples
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

    # Nothing is left to prepare: every example is ids and labels within max_length. TRL would go over each again.
    prepared = {} if arguments.get("packing") else {"dataset_kwargs": {"skip_prepare_dataset": True}}
    evaluates = bool(evaluation) and str(arguments.get("eval_strategy", "no")) != "no"
    try:
        config = SFTConfig(output_dir=str(checkpoints), **{**_ALWAYS, **prepared, **arguments})
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=Examples.of(train).dataset(),
            eval_dataset=Examples.of(evaluation).dataset() if evaluates else None,
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
