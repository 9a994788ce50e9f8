"""Faults from what pydantic refused: the path as written, the value, and the field's own words for what it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fastft.recipe import advice, yaml_text
from fastft.recipe.describe import choices, expectation, flatten, item_type
from fastft.recipe.document import Document, KeyPath, reach
from fastft.recipe.schema import Recipe
from fastft.recipe.suggest import nearest
from fastft.recipe.training_arguments import training_field

# pydantic's word for a default that could not be made because another field is at fault.
_FOLLOWS = "default_factory_not_called"


def add_schema_faults(document: Document, error: ValidationError) -> set[KeyPath]:
    """Turn each thing pydantic refused into a fault, one a path. Returns the paths at fault."""
    paths: set[KeyPath] = set()
    for detail in error.errors(include_url=False):
        path = _written(document, detail)
        if detail["type"] != _FOLLOWS and path not in paths:
            paths.add(path)
            document.add(path, *_parts(path, detail))
    return paths


def _written(document: Document, detail: ErrorDetails) -> KeyPath:
    """The location without what pydantic appends to it: the member of a union, the index in a lone text."""
    path: KeyPath = detail["loc"]
    if detail["type"] == "missing":
        return path
    tree: Any = document.tree
    for depth, part in enumerate(path):
        if not isinstance(tree, (dict, list)) or reach(tree, (part,)) is advice.MISSING:
            return path[:depth]
        tree = tree[part]
    return path


def _parts(path: KeyPath, detail: ErrorDetails) -> tuple[str, str, str]:
    """found, expected, hint"""
    context = detail.get("ctx", {})
    if detail["type"] == "extra_forbidden":
        return advice.unknown_key(path)
    if detail["type"] == "owned":
        return "fastft sets this itself", "", _sentence(context["reason"])
    if detail["type"] == "missing":
        return "missing", _expected(path), advice.example(path)
    value = detail["input"]
    expected = context.get("expected") or _expected(path)
    return context.get("found") or shown(value), expected, context.get("hint") or _hint(path, value)


def _expected(path: KeyPath) -> str:
    field = field_at(path)
    if field is None:
        return "another value"
    if _is_section(field):
        return "a mapping of keys"
    if len(path) > 2 and isinstance(path[-1], int):
        return expectation(FieldInfo.from_annotation(item_type(field.annotation)))
    return expectation(field)


def _hint(path: KeyPath, value: Any) -> str:
    """The nearest allowed word, or how to write what was most likely meant."""
    field = field_at(path)
    if field is None:
        return ""
    kinds = [kind for member in flatten(field.annotation) for kind in (member, *get_args(member))]
    if isinstance(value, str):
        if meant := advice.FOREIGN_VALUES.get(value.lower()):
            return meant
        near = nearest(value, choices(field.annotation) or choices(item_type(field.annotation)), cutoff=0.5)
        return f"Did you mean {near}?" if near else ""
    if str in kinds and isinstance(value, (int, float)) and not choices(field.annotation):
        return f'To mean it as text, put it in quotes: "{shown(value).removeprefix("found ")}".'
    return ""


def field_at(path: KeyPath) -> FieldInfo | None:
    """The schema's field for a path, or for the list or mapping that holds it."""
    head, *rest = path
    field = Recipe.model_fields.get(str(head))
    if not rest or field is None:
        return field
    if head == "training":
        return training_field(str(rest[0]))
    section = next(iter(sections_in(field.annotation)), None)
    return section.model_fields.get(str(rest[0])) if section else None


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    for member in flatten(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            yield member


def _is_section(field: FieldInfo) -> bool:
    return any(sections_in(field.annotation)) or field.description == Recipe.model_fields["training"].description


def shown(value: Any) -> str:
    """A value as found, on one short line, spelled as YAML spells it."""
    if isinstance(value, str):
        text = f'"{value}"'
    elif isinstance(value, (Mapping, list)):
        text = yaml_text.flow(value)
    else:
        text = yaml_text.flow([value])[1:-1]
    return f"found {text if len(text) <= 60 else text[:57] + '...'}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
