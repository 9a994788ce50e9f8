"""Faults from what pydantic refused: the path as written, the value, and the field's own words for what it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fastft.recipe import advice
from fastft.recipe.describe import choices, expectation, flatten, item_type, shown
from fastft.recipe.document import MISSING, Document, KeyPath, reach
from fastft.recipe.foreign_values import FOREIGN_VALUES
from fastft.recipe.schema import Recipe
from fastft.recipe.suggest import nearest
from fastft.recipe.training_arguments import training_field
from fastft.trainers import METHODS

# pydantic's word for a default that could not be made because another field is at fault.
_FOLLOWS = "default_factory_not_called"


def add_schema_faults(document: Document, error: ValidationError) -> set[KeyPath]:
    """Turn each thing pydantic refused into a fault, one a path.

    Returns the paths at fault, and those that were meant by keys with another name.
    """
    details: dict[KeyPath, ErrorDetails] = {}
    for detail in error.errors(include_url=False):
        if detail["type"] != _FOLLOWS:
            details.setdefault(_written(document, detail), detail)
    unknown = [path for path, detail in details.items() if detail["type"] == "extra_forbidden"]
    meant = {tuple(name.split(".")) for path in unknown if (name := advice.meant(path, method_of(document.tree)))}
    # "lora_r: 8" at the top stands for a lora section as well.
    meant |= {path[:1] for path in meant if path[0] not in document.tree}
    for path, detail in details.items():
        # A required key that stands there under another name is one fault, not two.
        known = path in document.unreadable or (detail["type"] == "missing" and path in meant)
        if not known:
            found, expected, hint = _parts(path, detail, method_of(document.tree))
            document.add(path, found, expected, _not_checked(path, document.tree, hint))
    return set(details) | meant


def _written(document: Document, detail: ErrorDetails) -> KeyPath:
    """The location without what pydantic appends to it: the member of a union, the index in a lone text."""
    path: KeyPath = detail["loc"]
    if detail["type"] == "missing":
        return path
    # A path that is not in the tree ends with pydantic's own labels.
    return next(path[:n] for n in range(len(path), -1, -1) if reach(document.tree, path[:n]) is not MISSING)


def method_of(tree: Any) -> str:
    """The method a recipe's tree names or, misspelt, must have meant; supervised fine-tuning where there is none."""
    name = tree.get("method") if isinstance(tree, Mapping) else None
    return meant_method(name) or "sft"


def meant_method(name: Any) -> str:
    """The method that is called so or nearly so, or ""."""
    if not isinstance(name, str) or name.lower() in FOREIGN_VALUES:
        return ""
    return nearest(name, METHODS)


def _not_checked(path: KeyPath, tree: Mapping[str, Any], hint: str) -> str:
    """`hint`, and what must be said beside it where nobody knows which method was meant."""
    if path != ("method",) or not tree.get("training") or meant_method(tree.get("method")):
        return hint
    own = "The fields of training: are the method's and are not checked before it is known"
    return f"{hint.removesuffix('.')}. {own}" if hint else own


def _parts(path: KeyPath, detail: ErrorDetails, method: str) -> tuple[str, str, str]:
    """found, expected, hint"""
    context = detail.get("ctx", {}) if detail["type"] in ("recipe", "owned") else {}
    if detail["type"] == "extra_forbidden":
        return advice.unknown_key(path, method)
    if detail["type"] == "owned":
        return "cannot be set here", "", advice.sentence(context["reason"])
    if detail["type"] == "missing":
        return "missing", _expected(path, method), advice.example(path)
    value = detail["input"]
    expected = context.get("expected") or _expected(path, method)
    return context.get("found") or shown(value), expected, context.get("hint") or _hint(path, value, method)


def _expected(path: KeyPath, method: str) -> str:
    field = field_at(path, method)
    if field is None:
        return "another value"
    if _is_section(path):
        return "a mapping of keys"
    if len(path) > 2 and isinstance(path[-1], int):
        return expectation(FieldInfo.from_annotation(item_type(field.annotation)))
    return expectation(field)


def _hint(path: KeyPath, value: Any, method: str) -> str:
    """The nearest allowed word, or how to write what was most likely meant."""
    field = field_at(path, method)
    if field is None:
        return ""
    if _is_section(path):
        return advice.as_section(str(path[0]), value)
    kinds = [*flatten(field.annotation), *flatten(item_type(field.annotation))]
    if isinstance(value, str):
        if meant := FOREIGN_VALUES.get(value.lower()):
            return meant
        near = nearest(value, choices(field.annotation) or choices(item_type(field.annotation)), cutoff=0.5)
        return f"Did you mean {near}?" if near else ""
    if isinstance(value, list) and not any(get_origin(kind) in (list, tuple) for kind in kinds):
        return "One value, not a list"
    if str in kinds and isinstance(value, (int, float)) and not choices(field.annotation):
        return f'To mean it as text, put it in quotes: "{shown(value).removeprefix("found ")}".'
    return ""


def field_at(path: KeyPath, method: str) -> FieldInfo | None:
    """The schema's field for a path, or for the list or mapping that holds it."""
    head, *rest = path
    field = Recipe.model_fields.get(str(head))
    if not rest or field is None:
        return field
    if head == "training":
        return training_field(str(rest[0]), method)
    annotation = field.annotation
    if isinstance(rest[0], int):  # a list of sections
        annotation, rest = item_type(annotation), rest[1:]
    section = next(iter(sections_in(annotation)), None)
    return section.model_fields.get(str(rest[0])) if section and rest else None


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    for member in flatten(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            yield member


def _is_section(path: KeyPath) -> bool:
    return len(path) == 1 and path[0] in advice.sections()
