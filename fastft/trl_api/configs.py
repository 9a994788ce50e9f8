"""TRL's configs with TRL's defaults, made from a script's arguments or read from a recipe."""

# ruff: noqa: E402
# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from fastft.backend import import_unsloth, uses_cpu_backend
from fastft.recipe.suggest import nearest

import_unsloth()  # before trl: the classes below are as unsloth left them

import trl
from trl.experimental.cpo import CPOConfig as _CPOConfig
from trl.experimental.orpo import ORPOConfig as _ORPOConfig

_ASSISTANT_ONLY = (
    "Whether only the assistant's turns of a conversation are learned. None, the default: they are, by fastft's own "
    "labels. False: every token is, as TRL does by default. True: as None, and TRL's checks of the template apply to "
    "data that TRL prepares."
)


class _Config:
    """The mixin of all configs: TRL's defaults whatever Unsloth chose instead, and `from_yaml`."""

    METHODS: ClassVar[tuple[str, ...]]  # the recipe's methods that take these fields

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(**{**_defaults(self._declared()), **self._given(args, kwargs)})

    @classmethod
    def _declared(cls) -> list[Any]:
        return [one for one in fields(cls) if one.init]  # pyright: ignore[reportArgumentType]

    @classmethod
    def _given(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """All arguments by name, also those given by their place. Raises TypeError for one that is no field.

        On a GPU Unsloth's configs would print a line about it and go on without.
        """
        names = [one.name for one in cls._declared()]
        if len(args) > len(names):
            raise TypeError(f"{cls.__name__} takes at most {len(names)} arguments, {len(args)} were given")
        given = dict(zip(names, args, strict=False))
        if twice := given.keys() & kwargs.keys():
            raise TypeError(f"{cls.__name__} got several values for {sorted(twice)[0]}")
        if unknown := [name for name in kwargs if name not in names]:
            near = nearest(unknown[0], names)
            hint = f". Did you mean {near}?" if near else ""
            raise TypeError(f"{cls.__name__} has no field {unknown[0]}{hint}")
        return given | kwargs

    @classmethod
    def from_yaml(cls, path: Path | str, **fields: Any) -> Self:
        """The config that a fastft recipe's `training:` section, or a flat YAML file of fields, stands for.

        Of a recipe everything is checked, and its `output_dir` and `model.max_seq_length` are taken as well. `fields`
        are laid over the file's. What neither says has TRL's default. Raises RecipeError with every fault in the file.
        """
        from fastft.trl_api.from_yaml import read_fields

        return cls(**{**read_fields(Path(path), cls.METHODS), **fields})


def _defaults(declared: list[Any]) -> dict[str, Any]:
    """As the fields declare them. On a GPU Unsloth's configs have an __init__ with other ones."""
    plain = {one.name: one.default for one in declared if one.default is not MISSING}
    return plain | {one.name: one.default_factory() for one in declared if one.default_factory is not MISSING}


@dataclass(init=False, repr=False, eq=False)
class SFTConfig(_Config, trl.SFTConfig):  # pyright: ignore[reportIncompatibleVariableOverride]
    """TRL's SFTConfig. `assistant_only_loss` is None unless it is given, and then keeps its meaning."""

    METHODS: ClassVar = ("sft", "pretrain")
    # Declared as TRL does, for its parser of command lines.
    assistant_only_loss: bool = field(default=cast(bool, None), metadata={"help": _ASSISTANT_ONLY})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Unsloth's CPU backend has switched it off by now.
        self.packs_on_cpu = bool(self._given(args, kwargs).get("packing")) and uses_cpu_backend()
        if self.packs_on_cpu and self.max_length is None:
            raise ValueError("packing needs a max_length")


class DPOConfig(_Config, trl.DPOConfig):
    """TRL's DPOConfig."""

    METHODS: ClassVar = ("dpo",)


class KTOConfig(_Config, trl.KTOConfig):
    """TRL's KTOConfig."""

    METHODS: ClassVar = ("kto",)


class RewardConfig(_Config, trl.RewardConfig):
    """TRL's RewardConfig."""

    METHODS: ClassVar = ("reward",)


class GRPOConfig(_Config, trl.GRPOConfig):
    """TRL's GRPOConfig."""

    METHODS: ClassVar = ("grpo",)


class RLOOConfig(_Config, trl.RLOOConfig):
    """TRL's RLOOConfig."""

    METHODS: ClassVar = ("rloo",)


class ORPOConfig(_Config, _ORPOConfig):
    """TRL's ORPOConfig."""

    METHODS: ClassVar = ("orpo",)


class CPOConfig(_Config, _CPOConfig):
    """TRL's CPOConfig."""

    METHODS: ClassVar = ("cpo",)
