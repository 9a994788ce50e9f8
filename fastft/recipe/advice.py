"""What to say of a key that is unknown: the right name, the right section, or the nearest one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from fastft.recipe.describe import flatten
from fastft.recipe.document import MISSING as MISSING
from fastft.recipe.document import KeyPath
from fastft.recipe.foreign import FOREIGN_VALUES as FOREIGN_VALUES
from fastft.recipe.foreign import TOOLS, Ours, foreign_key
from fastft.recipe.schema import Recipe
from fastft.recipe.suggest import listed, nearest
from fastft.recipe.training_arguments import settable

_EXAMPLES: Mapping[KeyPath, str] = {
    ("model", "model_name"): "For example model_name: unsloth/Qwen3-4B-Instruct-2507-unsloth-bnb-4bit",
    ("data", "path"): "For example path: my_chats.jsonl",
}


@cache
def sections() -> Mapping[str, tuple[str, ...]]:
    """Section -> its keys, in the schema's order."""
    known: dict[str, tuple[str, ...]] = {}
    for name, field in Recipe.model_fields.items():
        for member in flatten(field.annotation):
            if hasattr(member, "model_fields"):
                known[name] = tuple(member.model_fields)
    return {**known, "training": settable()}


def top_level() -> tuple[str, ...]:
    return tuple(name for name, field in Recipe.model_fields.items() if not field.exclude)


def unknown_key(path: KeyPath) -> tuple[str, str, str]:
    """found, expected and hint for a key the schema has no place for."""
    section, key = ("", str(path[0])) if len(path) == 1 else (str(path[0]), str(path[1]))
    valid = sections().get(section, top_level())
    homes = [home for home, keys in sections().items() if key in keys and home != section]
    near = nearest(key, valid)
    foreign = foreign_key(section, key)
    if foreign is not None:
        return "unknown key", "", foreign.text
    if homes and not (near and section and nearest(key, valid, cutoff=0.9)):
        return "unknown key here", "", f"{key} belongs in {' or '.join(f'{home}:' for home in homes)}"
    if near:
        return "unknown key", "", f"Did you mean {near}?"
    return "unknown key", "", _anywhere(section, key, valid)


def _anywhere(section: str, key: str, valid: tuple[str, ...]) -> str:
    for home, keys in sections().items():
        if near := nearest(key, keys, cutoff=0.8):
            return f"Did you mean {home}.{near}?"
    if section == "training":
        return "training: takes the fields of the installed TRL's SFTConfig"
    return f"{section + ':' if section else 'A recipe'} takes {listed(valid, limit=20)}"


def example(path: KeyPath) -> str:
    return _EXAMPLES.get(path, "")


def whole_recipe(tree: Mapping[str, Any]) -> str:
    """Said once at the end if the file is another tool's recipe."""
    counts = {tool: len(keys.keys() & tree.keys()) for tool, keys in TOOLS.items()}
    tool = max(counts, key=lambda name: counts[name])
    if counts[tool] < 3 or isinstance(tree.get("model"), Mapping) and tree["model"]:
        return ""
    return f"This reads like a recipe for {tool}. recipes/qlora_chat.yaml shows the same job as a fastft recipe."


__all__ = ["FOREIGN_VALUES", "MISSING", "Ours", "example", "sections", "top_level", "unknown_key", "whole_recipe"]
