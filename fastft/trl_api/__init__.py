"""The Python API of TRL's users: its trainers and configs, on Unsloth, with our data and labels.

`fastft.__getattr__` finds OURS here and forwards the rest of TRL's public names. Importing this package alone imports
nothing heavy; `configs` and `trainers` import unsloth first, then trl.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib import import_module
from typing import Any

from fastft.recipe.trl_config import source_of

_METHODS = ("SFT", "DPO", "KTO", "Reward", "GRPO", "RLOO", "ORPO", "CPO")
OURS: dict[str, str] = {
    **{f"{name}Trainer": "fastft.trl_api.trainers" for name in _METHODS},
    **{f"{name}Config": "fastft.trl_api.configs" for name in _METHODS},
    **dict.fromkeys(("ValidationCallback", "CheckpointCallback", "WandbCallback"), "fastft.trl_api.callbacks"),
}


@cache
def public_names(package: str = "trl") -> frozenset[str]:
    """The names that can be imported from `trl` or `trl.rewards`, read from the source: importing trl takes 10 s.

    Raises FastftError if trl is not installed.
    """
    folder = package.removeprefix("trl").removeprefix(".")
    source = source_of("trl", f"{folder}/__init__.py" if folder else "__init__.py")
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "_import_structure":
            return frozenset(name for names in ast.literal_eval(statement.value).values() for name in names)
    return frozenset()


def forward(name: str, package: str = "trl") -> Any:
    """A public name of TRL's, imported as Unsloth needs it: unsloth first. Raises AttributeError for any other."""
    if name not in public_names(package):
        raise AttributeError(f"module {package.replace('trl', 'fastft', 1)!r} has no attribute {name!r}")
    from fastft.backend import import_unsloth

    import_unsloth()
    return getattr(import_module(package), name)
