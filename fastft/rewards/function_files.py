"""Reward functions in people's own files: found and read without running them, loaded when training begins."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

from fastft.errors import TrainingError

# What every reward function may ask for beside the columns of the prompts: TRL's own keyword arguments.
GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")


@dataclass(frozen=True, slots=True)
class Signature:
    """Keyword arguments of a function. `any` says that it takes all there are."""

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    any: bool


def split_name(function: str) -> tuple[str, str]:
    """(file, name) of "file.py:name"; either is "" where it is missing."""
    file, _, name = function.rpartition(":")
    return (file, name) if file else (function, "")


def names_in(source: str, file: str) -> dict[str, ast.stmt]:
    """What a file defines at its top level, read and not run. Raises SyntaxError if it is no Python."""
    found: dict[str, ast.stmt] = {}
    for statement in ast.parse(source, file).body:
        for name in _bound(statement):
            found[name] = statement
    return found


def _bound(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
    return [target.id for target in targets if isinstance(target, ast.Name)]


def signature_of(statement: ast.stmt) -> Signature | None:
    """The keyword arguments of a function's definition; None where the name stands for something else."""
    if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) or statement.decorator_list:
        return None
    given = statement.args
    positional = [*given.posonlyargs, *given.args]
    bare = positional[: len(positional) - len(given.defaults)]
    bare += [arg for arg, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is None]
    needed = tuple(arg.arg for arg in bare)
    optional = tuple(arg.arg for arg in [*positional, *given.kwonlyargs] if arg.arg not in needed)
    return Signature(needed, optional, given.kwarg is not None)


def load_function(function: str) -> Callable[..., Any]:
    """The function of "/path/file.py:name".

    Raises TrainingError if the file can't be run or the name is no function.
    """
    found = load_name(function)
    if not callable(found):
        raise TrainingError(f"{function} is {type(found).__name__}, not a function")
    return found


class _AsWritten(SourceFileLoader):
    """Runs the file itself: a `__pycache__` beside it, whose content no sha256 tells, is neither read nor written."""

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        return self.source_to_code(self.get_data(self.path), self.path)


def load_name(named: str) -> Any:
    """What "/path/file.py:name" stands for. What stands beside the file can be imported by it.

    Raises TrainingError if the file can't be run.
    """
    file, name = split_name(named)
    path = Path(file)
    loader = _AsWritten(f"fastft_file_{path.stem}", str(path))
    spec = importlib.util.spec_from_file_location(loader.name, path, loader=loader)
    assert spec is not None  # `check` has seen a .py file there
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        loader.exec_module(module)
    except Exception as error:  # whatever a person's file may raise
        raise TrainingError(f"{file} can't be loaded: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return getattr(module, name, None)
