"""fastft: fine-tune a language model on one GPU, checked before it runs and proven after export.

The public functions load on first use, so that importing fastft costs nothing. No submodule bears the name of one of
them: importing it would put the module in the function's place.

    import fastft
    run = fastft.train("recipes/quickstart.yaml")
    run.export(["gguf"], "q8_0")
    run.chat("Hello!")

TRL's trainers, configs and every other public name of `trl` are here too: see docs/python.md.

    from fastft import SFTConfig, SFTTrainer
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_recipe": "fastft.recipe.load",
    "Recipe": "fastft.recipe.schema",
    "check": "fastft.checking",
    "train": "fastft.training",
    "Run": "fastft.run",
    "export": "fastft.exporting",
    "verify": "fastft.verification",
    "evaluate": "fastft.evaluating",
    "ChatSession": "fastft.chat",
    "serve": "fastft.serving",
    "replay": "fastft.replaying",
    "status": "fastft.standing",
    "FastftError": "fastft.errors",
}
__all__ = [
    "CPOConfig",
    "CPOTrainer",
    "ChatSession",
    "CheckpointCallback",
    "DPOConfig",
    "DPOTrainer",
    "FastftError",
    "GRPOConfig",
    "GRPOTrainer",
    "KTOConfig",
    "KTOTrainer",
    "ORPOConfig",
    "ORPOTrainer",
    "RLOOConfig",
    "RLOOTrainer",
    "Recipe",
    "RewardConfig",
    "RewardTrainer",
    "Run",
    "SFTConfig",
    "SFTTrainer",
    "ValidationCallback",
    "WandbCallback",
    "__version__",
    "check",
    "evaluate",
    "export",
    "load_recipe",
    "replay",
    "serve",
    "status",
    "train",
    "verify",
]

if TYPE_CHECKING:
    from fastft.chat import ChatSession
    from fastft.checking import check
    from fastft.errors import FastftError
    from fastft.evaluating import evaluate
    from fastft.exporting import export
    from fastft.recipe.load import load_recipe
    from fastft.recipe.schema import Recipe
    from fastft.replaying import replay
    from fastft.run import Run
    from fastft.serving import serve
    from fastft.standing import status
    from fastft.training import train
    from fastft.trl_api.callbacks import CheckpointCallback, ValidationCallback, WandbCallback
    from fastft.trl_api.configs import (
        CPOConfig,
        DPOConfig,
        GRPOConfig,
        KTOConfig,
        ORPOConfig,
        RewardConfig,
        RLOOConfig,
        SFTConfig,
    )
    from fastft.trl_api.trainers import (
        CPOTrainer,
        DPOTrainer,
        GRPOTrainer,
        KTOTrainer,
        ORPOTrainer,
        RewardTrainer,
        RLOOTrainer,
        SFTTrainer,
    )
    from fastft.verification import verify


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name.startswith("_"):
        raise AttributeError(f"module 'fastft' has no attribute {name!r}")
    from fastft.trl_api import OURS, forward

    return getattr(import_module(OURS[name]), name) if name in OURS else forward(name)


def __dir__() -> list[str]:
    from fastft.trl_api import public_names

    return sorted({*__all__, *public_names()})
