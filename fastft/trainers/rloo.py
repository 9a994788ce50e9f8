"""REINFORCE leave-one-out: TRL's RLOOTrainer, on answers that the model writes and rewards judge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastft.trainers.method import Default, Method, Rates
from fastft.trainers.online import DEFAULTS, DISPLAYED, MEASURES, OWNED, build_online, warnings

if TYPE_CHECKING:
    from fastft.trainers.method import Job

METHOD = Method(
    name="rloo",
    about="REINFORCE leave-one-out on rewarded answers",
    kind="prompt",
    config=("trl", "trainer/rloo_config.py", "RLOOConfig"),
    rates=Rates(lora=5e-6, full=1e-6, tiny=1e-3, reason="as for GRPO"),
    defaults=(
        Default("num_generations", 4, "answers to each prompt; the others are each one's baseline"),
        Default("beta", 0.05, "TRL's: held to the model as it was"),
        *DEFAULTS,
    ),
    measures=MEASURES,
    displayed=DISPLAYED,
    owned=OWNED,
    generates=True,
    warns=warnings,
)


def build_trainer(job: Job) -> Any:
    """An RLOOTrainer over the job's prompts. See `build_online`."""
    from trl import RLOOConfig, RLOOTrainer  # pyright: ignore[reportPrivateImportUsage]

    return build_online(job, RLOOTrainer, RLOOConfig)
