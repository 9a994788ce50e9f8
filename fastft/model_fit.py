"""The recipe against the model's own files: what neither the schema nor the recipe alone can tell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastft.errors import ExportError, Fault, ModelError, RecipeError
from fastft.exporters.weights import read_header
from fastft.model_files import read_config, read_text_config
from fastft.recipe.schema import Recipe
from fastft.recipe.suggest import listed, nearest
from fastft.run_files import read_weight_index

_USUAL_LENGTH = 2048
_OLD_TYPES = ("gpt-sw3",)  # known to transformers beside its table
_PARAMETERS = (".weight", ".bias")


def fit_to_model(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with model.max_seq_length filled in. `folder` holds the model's small files at least.

    Raises RecipeError for a length the model can't do, and for layers it doesn't have.
    """
    _refuse_unknown_type(read_config(folder), folder)
    config = read_text_config(folder)
    positions = config.get("max_position_embeddings")
    positions = positions if isinstance(positions, int) and positions > 0 else None
    faults = [*_length_faults(recipe, positions), *_layer_faults(recipe, config, module_names(folder))]
    if faults:
        raise RecipeError(f"{recipe.source or 'the recipe'} does not fit {recipe.model.model_name}:", faults=faults)
    length = recipe.model.max_seq_length or recipe.training.get("max_length") or _USUAL_LENGTH
    model = recipe.model.model_copy(update={"max_seq_length": min(length, positions or length)})
    return recipe.model_copy(update={"model": model})


def _refuse_unknown_type(config: dict[str, Any], folder: Path) -> None:
    """What the installed transformers has no class for can't be loaded. Importing its table would take a second."""
    from importlib.metadata import version

    kind, package = config.get("model_type"), find_spec("transformers")
    assert package is not None
    assert package.submodule_search_locations
    table = Path(package.submodule_search_locations[0]) / "models" / "auto" / "auto_mappings.py"
    if not table.is_file():  # another version may keep it elsewhere; loading the model will tell then
        return
    known = table.read_text(encoding="utf-8")
    if kind is not None and f'("{kind}", ' not in known and kind not in _OLD_TYPES:
        raise ModelError(
            f"{folder / 'config.json'} names the model type {kind!r}, which transformers {version('transformers')} "
            "does not know",
            hint="Take another model, or look for a newer fastft and transformers.",
        )


def module_names(folder: Path) -> list[str] | None:
    """Full names of the modules that hold weights, from the files' headers or index; None if neither is there."""
    index = folder / "model.safetensors.index.json"
    names: list[str] = []
    if index.is_file():
        names = list(read_weight_index(index, ModelError))
    for path in () if names else folder.glob("*.safetensors"):
        names += _header(path)
    return list(dict.fromkeys(_module(name) for name in names)) or None


def _module(tensor: str) -> str:
    """4-bit files hold more than one tensor of a weight: q_proj.weight, q_proj.weight.absmax and so on."""
    return next((tensor.partition(suffix)[0] for suffix in _PARAMETERS if suffix in tensor), tensor)


def _header(path: Path) -> list[str]:
    """Names of the tensors in a safetensors file; none if it is broken, which loading will tell."""
    try:
        return list(read_header(path)[0])
    except ExportError:
        return []


def _length_faults(recipe: Recipe, positions: Any) -> Iterator[Fault]:
    """On a GPU Unsloth stretches the position encoding for longer sequences, of which an export would know nothing."""
    if not isinstance(positions, int):
        return
    for key, length in (
        ("model.max_seq_length", recipe.model.max_seq_length),
        ("training.max_length", recipe.training.get("max_length")),
    ):
        if length is not None and length > positions:
            expected = f"at most {positions}, the positions the model was made for"
            yield recipe.fault(key, f"found {length}", expected, "Leave it out for the most that is useful")


def _layer_faults(recipe: Recipe, config: dict[str, Any], modules: Sequence[str] | None) -> Iterator[Fault]:
    lora = recipe.lora
    if lora is None:
        return
    layers = config.get("num_hidden_layers")
    beyond = [index for index in lora.layers_to_transform or () if isinstance(layers, int) and index >= layers]
    if beyond:
        expected = f"indices below {layers}, the number of layers"
        yield recipe.fault("lora.layers_to_transform", f"found {listed(map(str, beyond))}", expected)
    targets = lora.target_modules if isinstance(lora.target_modules, list) else []
    if modules is None:
        return
    linear = [module for module in modules if not module.endswith("norm")]
    yield from (_absent(recipe, "lora.target_modules", name, linear) for name in targets if not _is_there(name, linear))
    pattern = lora.target_modules if isinstance(lora.target_modules, str) else "auto"
    if pattern not in ("auto", "all-linear") and not any(re.fullmatch(pattern, module) for module in linear):
        expected = f"a pattern that matches whole names, such as {linear[-1]}"
        yield recipe.fault("lora.target_modules", f'found "{pattern}", which matches none of the layers', expected)
    saved = (name for name in lora.modules_to_save or () if not _is_there(name, modules))
    yield from (_absent(recipe, "lora.modules_to_save", name, modules) for name in saved)


def _is_there(name: str, modules: Sequence[str]) -> bool:
    """PEFT's rule: the whole name, or the end of it after a dot. A tied head has no tensor of its own."""
    return name == "lm_head" or any(module == name or module.endswith(f".{name}") for module in modules)


def _absent(recipe: Recipe, key: str, name: str, modules: Sequence[str]) -> Fault:
    known = sorted({module.rpartition(".")[2] for module in modules})
    close = nearest(name, known)
    hint = f"Did you mean {close}?" if close else ""
    return recipe.fault(key, f'found "{name}", which the model has no layer of', listed(known), hint)
