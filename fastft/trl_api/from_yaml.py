"""The fields of a config, read from a recipe or a flat YAML file, with every fault at its line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fastft.errors import Fault, RecipeError
from fastft.files import at_home
from fastft.recipe.describe import expectation, shown
from fastft.recipe.document import Document, KeyPath, Place, read_file
from fastft.recipe.faults import add_schema_faults
from fastft.recipe.load import load_recipe
from fastft.recipe.owned import owned
from fastft.recipe.schema import Recipe
from fastft.recipe.training_arguments import training_field
from fastft.recipe.trl_config import config_fields
from fastft.trainers import find_method

_STAND_INS = {"model": {"model_name": "stand/in"}, "data": {"path": "stand/in"}}


def read_fields(path: Path, methods: Sequence[str]) -> dict[str, Any]:
    """The fields that a file sets, for the config of `methods`. Raises RecipeError with every fault."""
    document = read_file(at_home(path))
    whole = {"model", "data", "training", "method"} & document.tree.keys()
    fields = _of_recipe(path, methods) if whole else _of_flat(document, methods[0])
    if fields.pop("batch", None) is not None:
        hint = "Set per_device_train_batch_size, or train the recipe itself: fastft train"
        raise RecipeError(f"{path} has batch: auto, which `fastft train` searches for and a script doesn't", hint=hint)
    return fields


def _of_recipe(path: Path, methods: Sequence[str]) -> dict[str, Any]:
    recipe = load_recipe(path)
    if recipe.method not in methods:
        fault = recipe.fault("method", f"found {recipe.method}", " or ".join(methods), _config_of(recipe.method))
        raise RecipeError(f"{path} has 1 fault:", faults=[fault])
    longest = recipe.model.max_seq_length
    known = {"max_length": longest} if longest and "max_length" in config_fields(recipe.method) else {}
    return {"output_dir": recipe.output_dir, **known, **recipe.training}


def _config_of(method: str) -> str:
    return f"Take {find_method(method).config[-1]}.from_yaml"


def _of_flat(document: Document, method: str) -> dict[str, Any]:
    """Fields that a recipe leaves to fastft are a script's own to set here: they are checked by their type."""
    own = {key: document.tree.pop(key) for key in list(document.tree) if key in owned(method)}
    checked = _checked_own(document, own, method)
    inside = _as_training(document, method)
    try:
        checked |= Recipe.model_validate(inside.tree).training
    except ValidationError as error:
        add_schema_faults(inside, error)
    if faults := [fault for _, fault in sorted((*document.faults, *inside.faults), key=lambda placed: placed[0])]:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise RecipeError(f"{document.path} has {count}:", faults=[_flattened(fault) for fault in faults])
    return checked


def _checked_own(document: Document, own: dict[str, Any], method: str) -> dict[str, Any]:
    checked = {}
    for key, value in own.items():
        field = training_field(key, method)
        try:
            checked[key] = TypeAdapter[Any](field.annotation or Any).validate_python(value)
        except ValidationError:
            document.add((key,), shown(value), expectation(field))
    return checked


def _as_training(document: Document, method: str) -> Document:
    """The same file with everything in it one level down, where a recipe has it."""
    places: dict[KeyPath, Place] = {("training", *path): place for path, place in document.places.items()}
    tree = {**_STAND_INS, "method": method, "training": document.tree, "output_dir": "stand/in"}
    return Document(document.name, tree, places, document.path, document.folder)


def _flattened(fault: Fault) -> Fault:
    """A fault as the flat file has it, where there is no section."""
    return Fault(fault.where.replace(" training.", " "), fault.found, fault.expected, fault.hint)
