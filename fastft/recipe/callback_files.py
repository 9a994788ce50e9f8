"""The files that callbacks name: tried beside the recipe, then under the current folder; read, and not run."""

from __future__ import annotations

import ast
from pathlib import Path

from fastft.recipe.describe import quoted
from fastft.recipe.document import KeyPath, reach
from fastft.recipe.reward_files import Finder, defined_in
from fastft.rewards.function_files import split_name

_WANTED = "file.py:Name, a TrainerCallback"


def resolve_callbacks(finder: Finder, callbacks: tuple[str, ...]) -> tuple[str, ...]:
    """With absolute paths. What is not there, or defines no such name, is refused."""
    return tuple(_resolved(finder, index, text) for index, text in enumerate(callbacks))


def _resolved(finder: Finder, index: int, text: str) -> str:
    tree = finder.document.tree
    path: KeyPath = ("callbacks", index) if reach(tree, ("callbacks", index)) == text else ("callbacks",)
    file, name = split_name(text)
    if not file or not name.isidentifier():
        finder.refuse(path, f"found {quoted(text)}", _WANTED, "The class or instance is named after a colon")
        return text
    found = finder.find(file)
    if found is None:
        finder.missing(path, file, _WANTED)
        return text
    if found.suffix != ".py" or not found.is_file():
        finder.refuse(path, f"found {quoted(file)}, which is no Python file", _WANTED)
    else:
        _check(finder, path, found, name)
    return f"{found}:{name}"


def _check(finder: Finder, path: KeyPath, file: Path, name: str) -> None:
    defined = defined_in(finder, path, file, name, _WANTED)
    if isinstance(defined, ast.FunctionDef | ast.AsyncFunctionDef):
        finder.refuse(path, f"{name} in {file} is a function", _WANTED)
