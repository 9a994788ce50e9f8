"""Overrides from the command line: `section.key=value`, laid over the document before it is checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fastft.errors import Fault
from fastft.recipe import yaml_text
from fastft.recipe.document import Document, Place, read_value

_AFTER_THE_FILE = 1 << 30
_FORM = "section.key=value"


def apply_overrides(document: Document, overrides: Sequence[str]) -> None:
    """Write each override into the tree, in order. What is malformed becomes a fault of the document."""
    for index, override in enumerate(overrides):
        key, equals, text = override.partition("=")
        keys = tuple(key.strip().split("."))
        place = Place(_AFTER_THE_FILE + index, f"override {override}", ".".join(keys))
        if not equals or not all(keys):
            document.faults.append((place, _malformed(place, key, bool(equals))))
            continue
        try:
            value = _parse(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
            hint = "Quote it for the shell and for YAML, e.g. 'section.key=\"a: b\"'"
            document.faults.append((place, Fault(place.text, f"the value is not valid YAML ({problem})", "", hint)))
            continue
        _write(document, keys, value, place)


def output_dir_override(output_dir: Path | str | None) -> tuple[str, ...]:
    """--output-dir as an override, quoted for YAML: a folder may be called 2024 or null. None gives none."""
    return () if output_dir is None else (f"output_dir={json.dumps(str(output_dir))}",)


def _malformed(place: Place, key: str, equals: bool) -> Fault:
    found = "a part of the key is empty" if equals else "no = in it"
    hint = "" if equals else f"For example {key.strip('.') or 'training.learning_rate'}=…"
    return Fault(place.text, found, _FORM, hint)


def _parse(text: str) -> Any:
    node = yaml_text.compose(text)
    return None if node is None else read_value(node)


def _write(document: Document, keys: tuple[str, ...], value: Any, place: Place) -> None:
    """Set the value, making the mappings on the way; whatever was written at or below the path is gone."""
    tree: dict[str, Any] = document.tree
    for depth, key in enumerate(keys[:-1]):
        inner = tree.get(key)
        if inner is None:
            inner = tree[key] = {}
            document.places[keys[: depth + 1]] = place
        if not isinstance(inner, dict):
            found = f"{'.'.join(keys[: depth + 1])} holds a value, not keys"
            document.faults.append((place, Fault(place.text, found, "a key of a section")))
            return
        tree = inner
    tree[keys[-1]] = value
    for path in [path for path in document.places if path[: len(keys)] == keys]:
        del document.places[path]
    document.places[keys] = place
