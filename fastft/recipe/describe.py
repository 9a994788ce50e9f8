"""What a field takes, in words: from its type and bounds, for messages and for the reference."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from fastft.recipe import yaml_text
from fastft.recipe.suggest import listed

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
    Any: "any value",
}


def quoted(text: str) -> str:
    """A text in quotes, on one line whatever is in it."""
    return json.dumps(text, ensure_ascii=False)


def shown(value: Any) -> str:
    """A value as found, on one short line, spelled as YAML spells it."""
    text = quoted(value) if isinstance(value, str) else yaml_text.flow(value)
    return f"found {text if len(text) <= 60 else text[:57] + '...'}"


def expectation(field: FieldInfo) -> str:
    """ "a whole number of at least 1", "one of none, all, lora_only", "true, false or unsloth", …"""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "expected" in extra:
        return str(extra["expected"])
    return _type(field.annotation, field.metadata)


def choices(annotation: Any) -> tuple[str, ...]:
    """The texts a type allows, if it allows a closed set of texts (possibly among other types)."""
    return tuple(v for kind in flatten(annotation) if get_origin(kind) is Literal for v in get_args(kind))


def flatten(annotation: Any) -> Iterator[Any]:
    """The members of a union, without the metadata of `Annotated`; any other type is its own one member."""
    if get_origin(annotation) is typing.Annotated:
        yield from flatten(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from flatten(member)
    else:
        yield annotation


def item_type(annotation: Any) -> Any:
    """The type of a list's or tuple's items, Any where there is none."""
    for member in flatten(annotation):
        if get_origin(member) in (list, tuple):
            return get_args(member)[0]
    return Any


def _type(annotation: Any, metadata: list[Any]) -> str:
    if get_origin(annotation) is typing.Annotated:
        inner, *more = get_args(annotation)
        return _type(inner, [*metadata, *_flat_metadata(more)])
    if get_origin(annotation) in (Union, types.UnionType):
        return _union(get_args(annotation), metadata)
    if get_origin(annotation) is Literal:
        values = [str(value) for value in get_args(annotation)]
        return values[0] if len(values) == 1 else f"one of {listed(values)}"
    if get_origin(annotation) in (list, tuple):
        item = _type(get_args(annotation)[0], [])
        return f"a list, each {item}" if item.startswith("one of") else f"a list of {item.removeprefix('a ')}s"
    if annotation in (dict, list) or get_origin(annotation) is dict:
        return "a list" if annotation is list else "a mapping"
    return _WORDS.get(annotation, "a value") + _bounds(metadata)


def _union(members: tuple[Any, ...], metadata: list[Any]) -> str:
    kinds = [member for member in members if not (member is int and float in members)]
    kinds.sort(key=lambda kind: kind is type(None))  # null comes last
    words = [_type(kind, metadata if kind in (int, float) else []) for kind in kinds]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _bounds(metadata: list[Any]) -> str:
    parts = []
    for bound in metadata:
        if isinstance(bound, annotated_types.Ge):
            parts.append(f"of at least {bound.ge}")
        elif isinstance(bound, annotated_types.Gt):
            parts.append(f"above {bound.gt}")
        elif isinstance(bound, annotated_types.Le):
            parts.append(f"at most {bound.le}")
        elif isinstance(bound, annotated_types.Lt):
            parts.append(f"below {bound.lt}")
    return " " + " and ".join(parts) if parts else ""


def _flat_metadata(metadata: list[Any]) -> list[Any]:
    """Bounds given as `Field(ge=1)` inside `Annotated` lie one level deeper."""
    return [inner for item in metadata for inner in (item.metadata if isinstance(item, FieldInfo) else [item])]
