"""The base of a recipe's sections, and types they share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from fastft.recipe import checks

NonEmpty = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """Base of the sections: frozen, no unknown keys, no NaN or infinity, no boolean taken for a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_traps(cls, value: Any, info: ValidationInfo) -> Any:
        return checks.refuse_traps(value, cls.model_fields[str(info.field_name)].annotation)
