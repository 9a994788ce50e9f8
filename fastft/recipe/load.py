"""From a file, a mapping or a Recipe to a checked Recipe. Every fault is found before one is raised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fastft.errors import Fault, RecipeError
from fastft.files import at_home
from fastft.recipe import advice
from fastft.recipe.contradictions import add_contradictions
from fastft.recipe.document import Document, KeyPath, from_mapping, plain, reach, read_file
from fastft.recipe.faults import add_schema_faults, meant_method, method_of
from fastft.recipe.overrides import apply_overrides
from fastft.recipe.paths import resolve_paths
from fastft.recipe.schema import Recipe

_REQUIRED: tuple[KeyPath, ...] = (("model", "model_name"), ("data", "path"))


def load_recipe(source: Path | str | Mapping[str, Any] | Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, a mapping or another Recipe, with overrides ("section.key=value") laid over it.

    Local paths come out absolute. Raises RecipeError holding every fault found.
    """
    if isinstance(overrides, str):
        raise TypeError("overrides is a sequence of texts, not one text")
    document = _read(source)
    apply_overrides(document, overrides)
    _let_overrides_win(document)
    _fill_in(document)
    recipe, at_fault = _validate(document)
    recipe, at_fault = resolve_paths(recipe, document, at_fault)
    add_contradictions(recipe, document, at_fault)
    if document.faults:
        raise _error(document)
    path = source.source if isinstance(source, Recipe) else document.path
    return recipe.read_from(path, lambda key: document.where(_key_path(key)))


def _let_overrides_win(document: Document) -> None:
    """Steps asked for on the command line take the place of the file's epochs, and the other way round."""
    pair: tuple[KeyPath, KeyPath] = (("training", "max_steps"), ("training", "num_train_epochs"))
    for said, other in (pair, pair[::-1]):
        ours, theirs = document.places.get(said), document.places.get(other)
        overridden = ours is not None and ours.override and theirs is not None and not theirs.override
        if overridden and document.has(other) and reach(document.tree, said) not in (-1, None):
            del document.tree["training"][other[-1]]
            document.places.pop(other, None)


def _key_path(key: str) -> KeyPath:
    """ "rewards.0" as ("rewards", 0)"""
    return tuple(int(part) if part.isdigit() else part for part in key.split("."))


def _read(source: Path | str | Mapping[str, Any] | Recipe) -> Document:
    if isinstance(source, Recipe):
        return from_mapping(source.as_dict(), source.source.resolve().parent if source.source else None)
    if isinstance(source, Mapping):
        return from_mapping(source)
    if isinstance(source, (str, Path)):
        return read_file(at_home(source))
    raise TypeError(f"a recipe is a file, a mapping or a Recipe, not {type(source).__name__}")


def _fill_in(document: Document) -> None:
    """A section that is absent or has nothing under it is an empty one, but for those where that means none."""
    for section in advice.sections():
        if section not in ("lora", "early_stopping") and document.tree.get(section) is None:
            document.tree[section] = {}
    if "output_dir" not in document.tree:
        document.tree["output_dir"] = f"runs/{document.path.stem if document.path else 'recipe'}"


def _validate(document: Document) -> tuple[Recipe, set[KeyPath]]:
    """The recipe, and the paths at fault. Where something is at fault the recipe is made without it, so that what
    else is wrong can be found too; it is never given out.
    """
    try:
        return Recipe.model_validate(document.tree), set()
    except ValidationError as error:
        at_fault = add_schema_faults(document, error)
    pruned = plain(document.tree)
    if ("method",) in at_fault:
        at_fault = at_fault | _training_of_meant(document)
    for path in at_fault:
        _prune(pruned, path)
    for section, key in _REQUIRED:
        if not isinstance(pruned.get(str(section)), dict):
            pruned[str(section)] = {}
        pruned[str(section)].setdefault(key, "stand/in")
    pruned["method"] = method_of(document.tree)
    return Recipe.model_validate(pruned), at_fault


def _training_of_meant(document: Document) -> set[KeyPath]:
    """The paths at fault for the method that a misspelt name must mean. Without one, all of `training` counts as such:
    nothing is known of it."""
    if not (meant := meant_method(document.tree.get("method"))):
        return {("training",)}
    try:
        Recipe.model_validate({**document.tree, "method": meant})
    except ValidationError as error:
        return add_schema_faults(document, error)
    return set()


def _prune(tree: dict[str, Any], path: KeyPath) -> None:
    """Take out the key at fault (of a list or a mapping in a section: the whole of it)."""
    section: Any = reach(tree, path[:1])
    if len(path) == 1 or isinstance(section, list):
        tree.pop(str(path[0]), None)
    elif isinstance(section, dict):
        section.pop(path[1], None)


def _error(document: Document) -> RecipeError:
    name = str(document.path or document.name)
    faults: list[Fault] = [fault for _, fault in sorted(document.faults, key=lambda placed: placed[0])]
    faults = list(dict.fromkeys(faults))
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return RecipeError(f"{name} has {count}:", faults=faults, hint=advice.whole_recipe(document.tree))
