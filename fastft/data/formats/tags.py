"""Turns under keys and roles of a set's own, renamed to those the formats know, as the recipe maps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# The keys of a turn. No format has a column of these names, so `data.columns` can map them beside the columns.
TURN_KEYS = ("from", "value", "role", "content")
_LISTS = ("messages", "conversations", "prompt", "completion", "chosen", "rejected")


def split_columns(columns: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """`data.columns` as (columns of rows, keys of turns)."""
    of_rows = {new: old for new, old in columns.items() if new not in TURN_KEYS}
    of_turns = {new: old for new, old in columns.items() if new in TURN_KEYS}
    return of_rows, of_turns


def rename_tags(
    values: dict[str, Any], keys: Mapping[str, str], roles: Mapping[str, str | Sequence[str]]
) -> dict[str, Any]:
    """The row with the keys and roles of its turns renamed; the row itself where nothing is to rename.

    `keys`: format's key -> the set's, as in {"from": "who", "value": "said"}. `roles`: format's role -> the set's, one
    or several, as in {"user": ["customer", "caller"]}. What is no list of turns stays as it is, for `convert` to judge.
    """
    if not keys and not roles:
        return values
    names = {old: new for new, old in keys.items()}
    tags = {tag: role for role, given in roles.items() for tag in ([given] if isinstance(given, str) else given)}
    return {name: _renamed(value, names, tags) if name in _LISTS else value for name, value in values.items()}


def _renamed(value: Any, names: Mapping[str, str], tags: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_renamed(item, names, tags) for item in value]
    if not isinstance(value, dict):
        return value
    turn = {names.get(key, key): item for key, item in value.items()}
    for key in ("from", "role"):
        if isinstance(turn.get(key), str):
            turn[key] = tags.get(turn[key], turn[key])
    return turn
