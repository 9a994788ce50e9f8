"""Group relative policy optimisation: TRL's GRPOTrainer, on answers that the model writes and rewards judge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastft.trainers.method import Default, Method, Rates
from fastft.trainers.online import DEFAULTS, DISPLAYED, MEASURES, OWNED, build_online, warnings

if TYPE_CHECKING:
    from fastft.trainers.method import Job

METHOD = Method(
    name="grpo",
    about="group relative policy optimisation on rewarded answers",
    kind="prompt",
    config=("trl", "trainer/grpo_config.py", "GRPOConfig"),
    rates=Rates(lora=5e-6, full=1e-6, tiny=1e-3, reason="Unsloth's GRPO notebooks"),
    defaults=(
        Default("num_generations", 8, "TRL's: answers to each prompt"),
        Default("beta", 0.0, "TRL's: no reference model"),
        *DEFAULTS,
    ),
    measures=MEASURES,
    displayed=DISPLAYED,
    owned=OWNED,
    generates=True,
    warns=warnings,
)


def build_trainer(job: Job) -> Any:
    """A GRPOTrainer over the job's prompts. See `build_online`."""
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportPrivateImportUsage]

    return build_online(job, GRPOTrainer, GRPOConfig)
