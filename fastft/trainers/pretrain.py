"""Continued pretraining: all tokens of raw texts, laid end to end, by TRL's SFTTrainer."""

from __future__ import annotations

from fastft.trainers.method import Default, Method, Rates
from fastft.trainers.sft import build_trainer

__all__ = ["METHOD", "build_trainer"]

METHOD = Method(
    name="pretrain",
    about="continued pretraining on raw text",
    kind="conversation",
    config=("trl", "trainer/sft_config.py", "SFTConfig"),
    rates=Rates(lora=5e-5, full=1e-5, tiny=1e-3, reason="Unsloth's notebook on continued pretraining"),
    defaults=(
        Default("packing", True, "texts fill each sequence"),
        Default("packing_strategy", "wrapped", "a text that is cut goes on in the next sequence"),
    ),
    owned={
        "neftune_noise_alpha": "noise on embeddings is for instruction tuning; there is no question here to blur",
    },
    texts=True,
)
