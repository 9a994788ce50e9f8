"""What is on against what was asked for: each difference is one Lost."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastft.fastpath import lost
from fastft.fastpath.batch import Batch
from fastft.fastpath.layers import Layers
from fastft.fastpath.lost import Lost

if TYPE_CHECKING:
    from fastft.recipe.schema import Recipe


@dataclass(frozen=True, slots=True)
class Asked:
    """What recipe and arguments ask for, of what can be lost."""

    four_bit: bool
    lora: bool
    recompute: bool
    packing: bool
    whole_sequences: bool  # "wrapped" packing, where documents may see those before them
    learns_text: bool  # one loss over the labels, as supervised fine-tuning has it
    padding: bool = False  # padded batches are wanted

    @classmethod
    def of(cls, recipe: Recipe, arguments: Mapping[str, Any]) -> Asked:
        model, section = recipe.model, recipe.lora
        by_lora = True if section is None else bool(section.use_gradient_checkpointing)
        return cls(
            four_bit=model.load_in_4bit and not (model.full_finetuning or model.load_in_16bit or model.load_in_8bit),
            lora=section is not None,
            recompute=bool(arguments.get("gradient_checkpointing", by_lora)),
            packing=bool(arguments.get("packing")),
            whole_sequences=arguments.get("packing_strategy") == "wrapped",
            learns_text=recipe.method in ("sft", "pretrain"),
            padding=arguments.get("padding_free") is False,
        )


def lost_in_layers(found: Layers, asked: Asked) -> Iterator[Lost]:
    """What the model itself shows, before any step."""
    missing = found.linear - found.four_bit - found.four_bit_left_out
    if asked.four_bit and missing:
        cause = f"{missing} of {found.linear} linear layers are not (nothing narrower than 64 can be)"
        yield Lost("4 bits", cause, "2 bytes a weight in place of 0.52")
    if found.patched == 0:
        yield Lost("Unsloth's layers", "this model takes Unsloth's generic path", lost.GENERIC)
    elif asked.lora:
        for cause, parts in found.unfused.items():
            yield Lost(f"fused LoRA off in {parts} parts of {found.adapted} layers", cause, lost.UNFUSED)
    if found.patched and found.patched < found.layers:
        cause = f"{found.layers - found.patched} of {found.layers} layers keep transformers' forward"
        yield Lost("Unsloth's layers", cause, lost.GENERIC)
    if asked.lora and found.dtypes.get("adapter", "float32") != "float32":
        cause = f"the adapter is in {found.dtypes['adapter']}"
        yield Lost("float32 adapter", cause, "small steps of the optimiser are lost to rounding")


def lost_by_recomputing(found: Layers, asked: Asked) -> Iterator[Lost]:
    """Seen while a batch runs: before, evaluations and trainers switch it off and on."""
    if found.recomputed and not asked.recompute:
        cause = f"on in {found.recomputed} of {found.layers} layers, and it was asked to be off"
        yield Lost("recomputation", cause, lost.RECOMPUTED)
    if asked.recompute and not found.recomputed and found.layers:
        yield Lost("recomputation", "off, and it was asked for", "memory for the activations of every layer")


def lost_in_batch(batch: Batch, asked: Asked, trainer: Any) -> Iterator[Lost]:
    """What the first real batch shows."""
    packed = batch.apart or (asked.whole_sequences and batch.padding == 0)
    if asked.packing and not packed:
        cost = f"{batch.padded_share:.0%} of this batch is padding" if batch.padding else lost.UNPACKED
        yield Lost("packing", why_unpacked(trainer, batch), cost)
    elif asked.learns_text and batch.padding and not asked.padding and _padding_free_blocked(trainer):
        cost = f"{batch.padded_share:.0%} of this batch is padding"
        yield Lost("padding-free batches", why_unpacked(trainer, batch), cost)
    if asked.learns_text and batch.logits is not None and batch.logits >= batch.tokens:
        yield Lost("cross entropy", why_all_logits(trainer), lost.full_logits(batch.tokens, batch.vocabulary))


def _padding_free_blocked(trainer: Any) -> bool:
    """Whether Unsloth switched it off: it leaves None where it chose padded batches because they are faster."""
    from fastft import backend

    return getattr(trainer.args, "padding_free", None) is False and not backend.uses_cpu_backend()


def lost_in_trainer(trainer: Any, asked: Asked) -> Iterator[Lost]:
    """Whether the trainer is Unsloth's: it isn't where trl was imported before unsloth, or the patch couldn't be made.

    On a GPU Unsloth puts classes of its own (UnslothSFTTrainer, …) in the place of TRL's, and a loop of its own in the
    place of transformers'; on the CPU it has one for supervised fine-tuning alone.
    """
    from fastft import backend

    classes = type(trainer).__mro__
    cause = "trl was imported before fastft, or Unsloth couldn't patch it (the run's train.log says which)"
    if backend.uses_cpu_backend():
        patched = not asked.learns_text or any(vars(each).get("_unsloth_cpu") for each in classes)
    else:
        stable = not any(each.__module__.startswith("trl.experimental") for each in classes)
        patched = not stable or any(each.__name__.lstrip("_").startswith("Unsloth") for each in classes)
        loop = getattr(type(trainer), "_inner_training_loop", None)
        if getattr(loop, "__name__", "") != "_fast_inner_training_loop":
            yield Lost("Unsloth's training loop", cause, "how much wasn't measured")
    if not patched:
        yield Lost("Unsloth's trainer", cause, "full logits and padded batches, as TRL has them")


def why_unpacked(trainer: Any, batch: Batch) -> str:
    """The conditions of `unsloth/trainer.py`, _patch_sft_trainer_auto_packing, that can hold for our trainers."""
    if os.environ.get("UNSLOTH_RETURN_LOGITS") == "1":
        return "UNSLOTH_RETURN_LOGITS=1"
    for name in ("compute_metrics", "preprocess_logits_for_metrics"):
        if getattr(trainer, name, None) is not None:
            return f"{name} was passed to the trainer"
    kind = str(getattr(trainer.model.config.get_text_config(), "model_type", ""))
    if kind in ("gemma2", "gpt_oss"):
        return f"Unsloth packs no {kind}"
    collator = trainer.data_collator
    if not type(collator).__module__.startswith(("trl.", "unsloth", "fastft")):
        return f"the trainer was given a data collator of its own, {type(collator).__name__}"
    if getattr(collator, "padding_free", None) is False:
        return f"the collator {type(collator).__name__} pads"
    if batch.masked:
        return "an attention mask is passed beside the positions"
    return "documents' positions don't reach the model"


def why_all_logits(trainer: Any) -> str:
    for name in ("UNSLOTH_RETURN_LOGITS", "UNSLOTH_CPU_CHUNKED_CE"):
        value = os.environ.get(name)
        if value == ("1" if name == "UNSLOTH_RETURN_LOGITS" else "0"):
            return f"{name}={value}, so every logit is made"
    if getattr(trainer.args, "label_smoothing_factor", 0):
        return "training.label_smoothing_factor is computed from every logit"
    return "the loss is computed from every logit, not in chunks"
