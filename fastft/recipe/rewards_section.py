"""What the answers of online methods are rewarded for: functions, built-in measures, or a trained reward model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from fastft.recipe.section import NonEmpty, Section

BuiltIn = Literal["regex", "exact", "numeric", "length"]


class RewardSection(Section):
    """One reward: exactly one of `function`, `builtin` and `run`; their weighted sum is what is learned from."""

    function: NonEmpty | None = Field(
        default=None,
        description="A Python function, called as TRL calls reward functions: (prompts, completions, **columns) -> "
        "one number a completion.",
        json_schema_extra={"expected": "file.py:function"},
    )
    builtin: BuiltIn | None = Field(
        default=None,
        description="regex: the answer matches arguments.pattern; exact, numeric: it is the column arguments.column "
        "(default: answer), as text or as a number; length: at most arguments.most tokens.",
    )
    run: NonEmpty | None = Field(default=None, description="The directory of a finished run of method reward.")
    weight: float = Field(default=1.0, description="What the reward is multiplied by.")
    arguments: dict[str, Any] = Field(
        default={}, description="Further keyword arguments of the function or the built-in measure."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        """A bare text is a function of a file, or the name of a built-in measure."""
        if not isinstance(value, str):
            return value
        return {"function": value} if ":" in value or value.endswith(".py") else {"builtin": value}

    def said(self) -> Mapping[str, Any]:
        """Only what says something."""
        return {key: value for key, value in self.model_dump().items() if value not in (None, {}, 1.0)}
