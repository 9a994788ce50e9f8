"""fastft: fine-tune a language model on one GPU, checked before it runs and proven after export.

The public functions load on first use, so that importing fastft costs nothing. No submodule bears the name of one of
them: importing it would put the module in the function's place.

    import fastft
    run = fastft.train("recipes/quickstart.yaml")
    run.export(["gguf"], "q8_0")
    run.chat("Hello!")
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
    "FastftError": "fastft.errors",
}
__all__ = [
    "ChatSession",
    "FastftError",
    "Recipe",
    "Run",
    "__version__",
    "check",
    "evaluate",
    "export",
    "load_recipe",
    "serve",
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
    from fastft.run import Run
    from fastft.serving import serve
    from fastft.training import train
    from fastft.verification import verify


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fastft' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
