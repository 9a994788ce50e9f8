"""What is done about a step that must not be learned from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fastft.recipe.section import Section


class BadStepsSection(Section):
    """A step is judged before a weight moves; its batch is kept in the run's bad_batches, and its rows are named."""

    action: Literal["stop", "skip"] = Field(
        default="stop",
        description="What is done where a loss or gradient is NaN or infinite, or no token is supervised: training "
        "ends before the step, or goes on without it.",
    )
    spike_action: Literal["tell", "stop", "skip", "ignore"] = Field(
        default="tell", description="What is done where the loss spikes; tell = one line, and training goes on."
    )
    spike_factor: float = Field(
        default=10.0,
        gt=0,
        description="A spike is a loss above the median of the last 64 steps by so many times their interquartile "
        "range, and by 1 at least.",
    )
    most_skipped: int = Field(default=10, ge=0, description="Skipped steps in a row, after which training ends.")
