"""The files and runs that rewards name: tried beside the recipe, then under the current folder; made absolute."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from fastft.errors import RecipeError
from fastft.reading import read_text, read_yaml
from fastft.recipe.describe import quoted
from fastft.recipe.document import MISSING, Document, KeyPath, reach
from fastft.recipe.rewards_section import RewardSection
from fastft.recipe.suggest import listed, nearest
from fastft.rewards.function_files import names_in, signature_of, split_name

_WANTED = "file.py:function"


class Finder(Protocol):
    """What `paths` looks for local files with."""

    document: Document

    def find(self, text: str) -> Path | None: ...
    def refuse(self, path: KeyPath, found: str, expected: str, hint: str = "") -> None: ...
    def missing(self, path: KeyPath, text: str, wanted: str) -> None: ...


def resolve_rewards(finder: Finder, rewards: tuple[RewardSection, ...]) -> tuple[RewardSection, ...]:
    """The rewards with absolute paths. What is not there, or defines no such function, is refused."""
    return tuple(_resolved(finder, index, reward) for index, reward in enumerate(rewards))


def _resolved(finder: Finder, index: int, reward: RewardSection) -> RewardSection:
    if reward.function is not None:
        return reward.model_copy(update={"function": _function(finder, _path(finder, index, "function"), reward)})
    if reward.run is not None:
        return reward.model_copy(update={"run": _run(finder, _path(finder, index, "run"), reward.run)})
    return reward


def _path(finder: Finder, index: int, key: str) -> KeyPath:
    """Where it was written: as a key of the entry, or as the entry itself."""
    path: KeyPath = ("rewards", index, key)
    return path if reach(finder.document.tree, path) is not MISSING else path[:2]


def _function(finder: Finder, path: KeyPath, reward: RewardSection) -> str:
    text = str(reward.function)
    file, name = split_name(text)
    if not file or not name.isidentifier():
        finder.refuse(path, f"found {quoted(text)}", _WANTED, "The function is named after a colon")
        return text
    found = finder.find(file)
    if found is None or not found.is_file() or found.suffix != ".py":
        if found is None:
            finder.missing(path, file, _WANTED)
        else:
            finder.refuse(path, f"found {quoted(file)}, which is no Python file", _WANTED)
        return text
    _check_function(finder, path, found, name, reward)
    return f"{found}:{name}"


def defined_in(finder: Finder, path: KeyPath, file: Path, name: str, wanted: str) -> Any:
    """What a Python file defines by that name, as a syntax tree; None where it doesn't, which is refused.

    Read, not run: people's code runs when training does.
    """
    try:
        defined = names_in(read_text(file, RecipeError), str(file))
    except RecipeError as error:
        finder.refuse(path, error.message, wanted)
        return None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" at line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        finder.refuse(path, f"{file} is no valid Python{line}: {getattr(error, 'msg', error)}", wanted)
        return None
    if name not in defined:
        near = nearest(name, defined)
        hint = f"Did you mean {near}?" if near else f"It defines {listed(defined) or 'nothing'}"
        finder.refuse(path, f"{file} defines no {name}", wanted, hint)
    return defined.get(name)


def _check_function(finder: Finder, path: KeyPath, file: Path, name: str, reward: RewardSection) -> None:
    defined = defined_in(finder, path, file, name, _WANTED)
    if defined is None:
        return
    signature = signature_of(defined)
    if signature is None or signature.any:
        return
    for key in reward.arguments:
        if key not in (*signature.needed, *signature.optional):
            takes = listed((*signature.needed, *signature.optional))
            finder.refuse(path, f"{name} takes no {key}, which is in arguments", f"arguments out of {takes}")


def _run(finder: Finder, path: KeyPath, text: str) -> str:
    wanted = "the directory of a finished run of method reward"
    found = finder.find(text)
    if found is None and text.startswith("runs/"):
        return text  # of a chain, the stage before; `check` asks for it
    if found is None:
        finder.missing(path, text, wanted)
    elif not (found / "manifest.json").is_file():
        why = "no finished run: it holds no manifest.json" if found.is_dir() else "a file"
        finder.refuse(path, f"found {quoted(text)}, {why}", wanted)
    elif (method := _method_of(found)) != "reward":
        finder.refuse(path, f"found {quoted(text)}, a run of method {method}", wanted)
    return str(found or text)


def _method_of(run: Path) -> str:
    return str(read_yaml(run / "recipe.yaml", RecipeError).get("method"))
