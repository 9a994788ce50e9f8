"""What to say of a key that is unknown: the right name, the right section, or the nearest one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from fastft.recipe.describe import flatten
from fastft.recipe.document import KeyPath
from fastft.recipe.foreign import TOOLS, foreign_key
from fastft.recipe.owned import OWNED
from fastft.recipe.schema import Recipe
from fastft.recipe.suggest import listed, nearest
from fastft.recipe.training_arguments import settable
from fastft.trainers import METHODS, find_method

_SECRET = re.compile(r"(api|access|private|secret)_?key$|secret$|passw(or)?d$|(hf|hub|auth|api)_?tok(en)?$", re.I)
_ANYONES = {"batch_size", "dataset", "epochs", "lr", "name", "optimizer", "seed"}  # names that tell of no tool
_EXAMPLES: Mapping[KeyPath, str] = {
    ("model", "model_name"): "For example model_name: unsloth/Qwen3-4B-Instruct-2507-unsloth-bnb-4bit",
    ("data", "path"): "For example path: my_chats.jsonl",
}


@cache
def sections(method: str = "sft") -> Mapping[str, tuple[str, ...]]:
    """Section -> its keys, in the schema's order; those of `training` are the method's."""
    known: dict[str, tuple[str, ...]] = {}
    for name, field in Recipe.model_fields.items():
        for member in flatten(field.annotation):
            if hasattr(member, "model_fields"):
                known[name] = tuple(member.model_fields)
    return {**known, "training": settable(method)}


def top_level() -> tuple[str, ...]:
    return tuple(Recipe.model_fields)


def unknown_key(path: KeyPath, method: str) -> tuple[str, str, str]:
    """found, expected and hint for a key the schema has no place for."""
    section, key = _section_and_key(path)
    known = sections(method)
    valid = known.get(section, top_level())
    homes = [home for home, keys in known.items() if key in keys]
    if ours := foreign_key(section, key):
        return "unknown key", "", ours.text
    if homes:
        return "unknown key here", "", f"{key} belongs in {' or '.join(f'{home}:' for home in homes)}"
    if key in OWNED:
        return "cannot be set here", "", sentence(OWNED[key])
    if takers := [name for name in METHODS if key in settable(name)]:
        return "unknown key here", "", f"{key} is for method {listed(takers)}; this recipe's method is {method}"
    if _SECRET.search(key):
        return "unknown key", "", "A secret has no place in a recipe; give it by a variable such as HF_TOKEN"
    if near := nearest(key, valid):
        return "unknown key", "", f"Did you mean {near}?"
    return "unknown key", "", _anywhere(section, key, valid, method)


def _section_and_key(path: KeyPath) -> tuple[str, str]:
    return ("", str(path[0])) if len(path) == 1 else (str(path[0]), str(path[1]))


def _anywhere(section: str, key: str, valid: tuple[str, ...], method: str) -> str:
    for home, keys in sections(method).items():
        if near := nearest(key, keys, cutoff=0.8):
            return f"Did you mean {home}.{near}?"
    if section == "training":
        return f"training: takes the fields of {find_method(method).config[-1]} in the installed TRL"
    return f"{section + ':' if section else 'A recipe'} takes {listed(valid, limit=20)}"


def as_section(section: str, value: Any) -> str:
    """How a section is written that was given a single value."""
    first = {"model": "model_name", "data": "path", "lora": "r", "export": "formats", "evaluation": "prompts"}
    if isinstance(value, str) and (pair := re.match(r"(\w+):(\S.*)", value)) and pair[1] in sections()[section]:
        return f"YAML wants a space after the colon: {pair[1]}: {pair[2]}"
    if section == "lora" and isinstance(value, bool):
        return "Write lora: {r: 16}, or lora: null with model.full_finetuning: true"
    return f"Write {section}: {{{first[section]}: {value}}}" if section in first else ""


def meant(path: KeyPath, method: str) -> str:
    """The "section.key" that an unknown key was most likely meant to be, or ""."""
    section, key = _section_and_key(path)
    if ours := foreign_key(section, key):
        return ours.target
    near = nearest(key, sections(method).get(section, ()))
    return f"{section}.{near}" if near else ""


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def example(path: KeyPath) -> str:
    return _EXAMPLES.get(path, "")


def whole_recipe(tree: Mapping[str, Any]) -> str:
    """Said once at the end if the file is another tool's recipe."""
    if isinstance(tree.get("model"), Mapping) and "model_name" in tree["model"]:
        return ""
    keys = {*tree, *(key for section in tree.values() if isinstance(section, Mapping) for key in section)}
    counts = {tool: len(keys & table.keys()) for tool, table in TOOLS.items()}
    tool = max(counts, key=lambda name: counts[name])
    others = {*_ANYONES, *(key for name, table in TOOLS.items() if name != tool for key in table)}
    if counts[tool] < 3 or keys & TOOLS[tool].keys() <= others:
        return ""
    return f"This reads like a recipe for {tool}. recipes/qlora_chat.yaml shows the same job as a fastft recipe."
