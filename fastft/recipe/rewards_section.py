"""What the answers of online methods are rewarded for: functions, built-in measures, or a trained reward model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from fastft.recipe import checks
from fastft.recipe.describe import shown
from fastft.recipe.section import NonEmpty, Section
from fastft.recipe.suggest import listed, nearest

BuiltIn = Literal["regex", "exact", "numeric", "length"]
# What each built-in measure takes in `arguments`: name -> (type in words, whether it must be given).
BUILTIN_ARGUMENTS: Mapping[str, Mapping[str, tuple[str, bool]]] = {
    "regex": {"pattern": ("a regular expression", True)},
    "exact": {"column": ("the name of a column", False)},
    "numeric": {"column": ("the name of a column", False)},
    "length": {"most": ("a whole number of at least 1", True), "unit": ("tokens or characters", False)},
}
_KINDS = ("function", "builtin", "run")


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
        description="regex: 1 where arguments.pattern is found anywhere in the answer (^ and $ hold it to the whole); "
        "exact: 1 where the answer is the text of arguments.column; numeric: 1 where its last number is the column's "
        "(column: answer, unless another is given); length: 1 up to arguments.most tokens (or unit: characters), "
        "falling to 0 at twice as many.",
    )
    run: NonEmpty | None = Field(default=None, description="The directory of a finished run of method reward.")
    weight: float = Field(default=1.0, description="What the reward is multiplied by.")
    arguments: dict[str, Any] = Field(
        default={}, description="Further keyword arguments of the function, or the built-in measure's own."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        """A bare text is a function of a file, or the name of a built-in measure."""
        if isinstance(value, str):
            return {"function": value} if ":" in value or value.endswith(".py") else {"builtin": value}
        if not isinstance(value, Mapping):
            raise checks.fault("file.py:function, the name of a built-in measure, or {function | builtin | run, …}")
        if unknown := [key for key in value if key not in cls.model_fields]:
            near = nearest(str(unknown[0]), cls.model_fields)
            hint = f"Did you mean {near}?" if near else ""
            raise checks.fault(listed(cls.model_fields), found=f"found the key {unknown[0]}", hint=hint)
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> RewardSection:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise checks.fault("exactly one of function, builtin and run", found=f"found {listed(given) or 'none'}")
        if self.builtin is not None:
            _check_arguments(self.builtin, self.arguments)
        if self.run is not None and self.arguments:
            raise checks.fault("no arguments beside run", found=f"{shown(self.arguments)} for arguments")
        return self

    @property
    def name(self) -> str:
        """What it is called in tables and logs, where nothing else has the same name."""
        if self.function is not None:
            return self.function.rpartition(":")[2]
        return self.builtin or str(self.run).rstrip("/").rpartition("/")[2]

    @property
    def column(self) -> str | None:
        """The column that a built-in measure compares with."""
        return str(self.arguments.get("column", "answer")) if self.builtin in ("exact", "numeric") else None

    def said(self) -> Mapping[str, Any]:
        """Only what says something."""
        return {key: value for key, value in self.model_dump().items() if value not in (None, {}, 1.0)}


def reward_names(rewards: tuple[RewardSection, ...]) -> list[str]:
    """A name for each, none twice: the second of a name is name_2."""
    names: list[str] = []
    for reward in rewards:
        again = sum(other.name == reward.name for other in rewards[: len(names)])
        names.append(f"{reward.name}_{again + 1}" if again else reward.name)
    return names


def _check_arguments(builtin: str, arguments: Mapping[str, Any]) -> None:
    """Raises a fault for an argument the measure doesn't take, one that is missing, or an impossible value."""
    takes = BUILTIN_ARGUMENTS[builtin]
    for key, value in arguments.items():
        if key not in takes:
            raise checks.fault(f"arguments of {builtin}: {listed(takes)}", found=f"found arguments.{key}")
        if not _is_possible(key, value):
            raise checks.fault(takes[key][0], found=f"{shown(value)} for arguments.{key}")
    for key, (expected, needed) in takes.items():
        if needed and key not in arguments:
            raise checks.fault(f"arguments.{key}, {expected}", found=f"found {builtin} without arguments.{key}")
    if "pattern" in arguments:
        try:
            re.compile(arguments["pattern"])
        except re.error as error:
            found = f"found {arguments['pattern']!r} for arguments.pattern"
            raise checks.fault("a regular expression of Python", found=found, hint=f"Python says: {error}") from error


def _is_possible(key: str, value: Any) -> bool:
    if key == "most":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if key == "unit":
        return value in ("tokens", "characters")
    return isinstance(value, str) and value != ""
