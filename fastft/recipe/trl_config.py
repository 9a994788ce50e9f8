"""The fields of TRL's configs as installed, read from their source: importing trl would import torch (10 s).

A class is cut out of its file at the first method, so only the lines that declare fields are parsed.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Optional, Union, get_args, get_origin

from fastft.errors import FastftError
from fastft.trainers import find_method

# What every method's config derives from. Derived classes last, so that their fields win.
_BASES = (
    ("transformers", "training_args.py", "TrainingArguments"),
    ("trl", "trainer/base_config.py", "_BaseConfig"),
)
_ENUM_FILES = ("trainer_utils.py", "training_args.py", "debug_utils.py")
_PLAIN_TYPES: Mapping[str, Any] = {
    "int": int,
    "float": int | float,
    "bool": bool,
    "str": str,
    "dict": dict,
    "list": list,
}


@dataclass(frozen=True, slots=True)
class ConfigField:
    """One field as the library declares it. `default` is None where the source computes it."""

    name: str
    annotation: Any
    default: Any
    help: str


@cache
def config_fields(method: str) -> Mapping[str, ConfigField]:
    """Name -> field, of the installed config of a method and its bases.

    Raises FastftError if the sources are not as known.
    """
    fields: dict[str, ConfigField] = {}
    for package, file, name in (*_BASES, find_method(method).config):
        fields |= _declared(_class_body(source_of(package, file), name, f"{package}/{file}"))
    return MappingProxyType(fields)


@cache
def reporting_integrations() -> tuple[str, ...]:
    """The names `report_to` takes, from transformers' own table."""
    source = source_of("transformers", "integrations/integration_utils.py")
    table = re.search(r"^INTEGRATION_TO_CALLBACK = \{(.*?)^\}", source, re.M | re.S)
    return tuple(re.findall(r'"(\w+)":', table.group(1))) if table else ()


@cache
def logged_metrics(method: str) -> tuple[str, ...]:
    """What the method's trainer in TRL measures, from its source; * stands for what is found at run time."""
    package, file, _ = find_method(method).config
    source = source_of(package, file.replace("_config.py", "_trainer.py"))
    names = re.findall(r'metrics(?:\[mode\])?\[f?"(?:\{prefix\})?([\w/.{}]+)"\]', source)
    return tuple(dict.fromkeys(re.sub(r"\{\w+\}", "*", name) for name in names))


@cache
def source_of(package: str, file: str) -> str:
    """The text of a file of an installed package, read without importing it. Raises FastftError if it isn't there."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FastftError(f"the package {package} is not installed", hint="Install fastft with uv: `uv sync`.")
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file():
        raise FastftError(
            f"the installed {package} has no {file}", hint="fastft needs the versions in its pyproject.toml."
        )
    return path.read_text(encoding="utf-8")


def _class_body(source: str, name: str, place: str) -> list[ast.stmt]:
    cut = re.search(rf"^class {name}\b.*?(?=^\S|^    def |^    @|\Z)", source, re.M | re.S)
    if cut is None:
        raise FastftError(
            f"{place} has no class {name}", hint="fastft needs the versions of trl and transformers in pyproject.toml."
        )
    definition = ast.parse(cut.group()).body[0]
    return definition.body if isinstance(definition, ast.ClassDef) else []


def _declared(body: list[ast.stmt]) -> dict[str, ConfigField]:
    """The annotated names of a class body, those under a top-level `if` left aside as they are no fields."""
    return {
        item.target.id: _field(item.target.id, item.annotation, item.value)
        for item in body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


def _field(name: str, annotation: ast.expr, value: ast.expr | None) -> ConfigField:
    given = {k.arg: k.value for k in value.keywords} if isinstance(value, ast.Call) else {}
    metadata = given.get("metadata")
    notes = (
        {k.value: v for k, v in zip(metadata.keys, metadata.values, strict=True) if isinstance(k, ast.Constant)}
        if isinstance(metadata, ast.Dict)
        else {}
    )
    default = _literal(given.get("default", value))
    declared = _type(annotation)
    if allowed := _literal(notes.get("choices")):
        nullable = type(None) in get_args(declared)
        declared = Optional[Literal[tuple(allowed)]] if nullable else Literal[tuple(allowed)]  # noqa: UP045
    return ConfigField(name, declared, default, str(_literal(notes.get("help")) or "").replace("%%", "%"))


def _literal(node: ast.expr | None) -> Any:
    """The value of a literal expression, None for one that is computed."""
    if node is None:
        return None
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _type(node: ast.expr) -> Any:
    """An annotation as a type; a form not known here takes any value."""
    if isinstance(node, ast.Constant) and node.value is None:
        return type(None)
    if isinstance(node, ast.Name):
        return _PLAIN_TYPES.get(node.id) or _enum(node.id) or Any
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([_type(node.left), _type(node.right)])
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        return _subscript(node.value.id, node.slice)
    return Any


def _subscript(name: str, argument: ast.expr) -> Any:
    arguments = argument.elts if isinstance(argument, ast.Tuple) else [argument]
    if name == "Literal":
        return Literal[tuple(_literal(item) for item in arguments)]
    if name in ("Optional", "Union"):
        return _union([_type(item) for item in arguments] + ([type(None)] if name == "Optional" else []))
    if name in ("list", "List"):
        return list[_type(arguments[0])]
    return dict if name in ("dict", "Dict") else Any


def _union(members: list[Any]) -> Any:
    """`SchedulerType | str` takes the enum's names only: transformers turns the text into the enum."""
    enums = [m for m in members if get_origin(m) is Literal and all(isinstance(v, str) for v in get_args(m))]
    return Union[tuple(m for m in members if not (enums and m is str))]  # noqa: UP007


@cache
def _enum(name: str) -> Any:
    """A Literal of the values of one of transformers' string enums, or None if there is no such enum."""
    for file in _ENUM_FILES:
        cut = re.search(rf"^class {name}\(\w*Enum\):.*?(?=^\S|\Z)", source_of("transformers", file), re.M | re.S)
        if cut is not None:
            return Literal[tuple(re.findall(r'^    [A-Z0-9_]+ = "([^"]+)"', cut.group(), re.M))]
    return None
