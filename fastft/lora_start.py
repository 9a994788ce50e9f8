"""What a LoRA starts from: an adapter to go on with, or an initialisation that takes part of the base out of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fastft.base_identity import BaseIdentity
from fastft.errors import ExportError, Fault, RecipeError, TrainingError
from fastft.exporters.classifier import holds_classifier
from fastft.files import write_json
from fastft.model_code import require_adapter_weights
from fastft.recipe.lora_rules import is_residual
from fastft.run_files import read_adapter_config, read_manifest

if TYPE_CHECKING:
    from fastft.recipe.schema import LoraSection, Recipe

# Fields of PEFT's configuration that a recipe has as well.
_OF_ADAPTER = ("r", "lora_alpha", "lora_dropout", "bias", "use_rslora", "use_dora", "modules_to_save")
_PRODUCTS = (".lora_A", ".lora_B", ".lora_embedding_A", ".lora_embedding_B")


def fit_to_adapter(recipe: Recipe) -> Recipe:
    """The recipe with the adapter's own rank, scale and dropout, if it goes on with one; `as_dict` leaves them out.

    Raises RecipeError if what is there is no LoRA, is one that can't be merged, or belongs to another base.
    """
    from fastft.exporters.lora import read_config

    if recipe.lora is None or recipe.lora.adapter_name_or_path is None:
        return recipe
    folder = adapter_folder(recipe.lora.adapter_name_or_path)
    require_adapter_weights(folder)
    try:
        config = read_config(folder)
    except ExportError as error:
        raise _refused(recipe, error.message, "a run directory, or a folder with a LoRA of PEFT") from error
    if holds_classifier(folder):
        raise _refused(recipe, f"{folder} is a reward model's", "an adapter of a model that writes text")
    known = base_of_adapter(recipe.lora)  # of a run; where that was a stage, the config names the merged folder
    trained_on = known.model_name if known else str(config.get("base_model_name_or_path"))
    if not _same_model(trained_on, recipe.model.model_name):
        expected = f"an adapter on {recipe.model.model_name}, which model.model_name says"
        raise _refused(recipe, f"an adapter on {trained_on}", expected, f"Set model.model_name: {trained_on}")
    own = {key: config[key] for key in _OF_ADAPTER if config.get(key) is not None}
    return recipe.model_copy(update={"lora": recipe.lora.model_copy(update=own)})


def adapter_folder(path: str) -> Path:
    """Where the adapter of a run, or a bare one, lies."""
    folder = Path(path)
    return folder / "adapter" if (folder / "recipe.yaml").is_file() else folder


def _same_model(one: str, other: str) -> bool:
    """By name; a 4-bit repository of Unsloth and the 16-bit one it was made from are the same model."""
    from fastft.exporters.base_model import sixteen_bit_name

    return bool({one, sixteen_bit_name(one)} & {other, sixteen_bit_name(other)} - {None})


def _refused(recipe: Recipe, found: str, expected: str, hint: str = "") -> RecipeError:
    fault: Fault = recipe.fault("lora.adapter_name_or_path", found, expected, hint)
    return RecipeError(f"{recipe.source or 'recipe'} has 1 fault:", faults=[fault])


def base_of_adapter(lora: LoraSection) -> BaseIdentity | None:
    """The base that the adapter of a run was trained on; None where nothing but its name is known."""
    manifest = Path(lora.adapter_name_or_path or "") / "manifest.json"
    if lora.adapter_name_or_path is None or not manifest.is_file():
        return None
    return BaseIdentity(**read_manifest(manifest)["model"]["base"])


@contextmanager
def adapter_on(base: str, revision: str | None, lora: LoraSection) -> Iterator[str]:
    """A copy of the adapter that names `base` as its base, which is what Unsloth loads it on."""
    folder = adapter_folder(lora.adapter_name_or_path or "")
    require_adapter_weights(folder)
    with TemporaryDirectory() as copied:
        for path in folder.glob("adapter_model*.safetensors"):
            shutil.copyfile(path, Path(copied) / path.name)
        config = read_adapter_config(folder)
        named = {"base_model_name_or_path": base, "revision": revision}
        write_json(Path(copied) / "adapter_config.json", {**config, **named})
        yield copied


def keep_start_of_lora(model: Any, lora: LoraSection | None, folder: Path) -> None:
    """Keep in `folder` what the LoRA starts with, where the base was changed by it: `relate_to_base` needs it.

    A resumed run starts from the same matrices to the bit, whatever machine decomposes the base this time. Raises
    TrainingError if `folder` is there and doesn't hold them.
    """
    if lora is None or not is_residual(lora.init_lora_weights):
        return
    if folder.is_dir():
        _rebase(model, folder)
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(str(partial))
    partial.replace(folder)


def relate_to_base(adapter: Path, initial: Path) -> None:
    """Make a saved `adapter` one on the base as it was before `keep_start_of_lora` kept `initial`, if it did.

    With s the scale and A0, B0 the start: W - s·B0·A0 + s·B·A = W + s·[B, -B0]·[A; A0], a LoRA of twice the rank.
    PEFT's own conversion (path_initial_model_for_weight_conversion) is the same, and drops what was trained whole.
    Raises TrainingError if what is in `initial` isn't what the adapter started with.
    """
    from safetensors.torch import load_file, save_file

    if not initial.is_dir():
        return
    weights = load_file(adapter / "adapter_model.safetensors")
    products = {name: tuple(weights[name].shape) for name in weights if any(part in name for part in _PRODUCTS)}
    first = _read_start(initial, products)
    weights |= {name: _joined(name, weights[name], first[name]) for name in products}
    save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    config = read_adapter_config(adapter)
    grown = 2**0.5 if config["use_rslora"] else 2
    config |= {"r": 2 * config["r"], "lora_alpha": grown * config["lora_alpha"], "init_lora_weights": True}
    write_json(adapter / "adapter_config.json", config)


def _read_start(initial: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The matrices that a LoRA started with, of these names and shapes. Raises TrainingError if they aren't there."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = initial / "adapter_model.safetensors"
    hint = "The LoRA's base can't be told without it. Put it back as training wrote it, or start a new run: --new."
    if not path.is_file():
        raise TrainingError(f"{path} is no file, so what the LoRA started with is lost", hint=hint)
    try:
        first = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise TrainingError(f"{path} can't be read: {error}", hint=hint) from error
    for name, shape in shapes.items():
        if name not in first or tuple(first[name].shape) != shape:
            found = tuple(first[name].shape) if name in first else "nothing"
            raise TrainingError(f"{path}: found {found} as {name}; expected a matrix of the shape {shape}", hint=hint)
    return first


def _joined(name: str, trained: Any, first: Any) -> Any:
    """[A; A0] or [B, -B0]. An embedding's base isn't taken apart, so there the second half is nothing."""
    import torch

    second = torch.zeros_like(trained) if "embedding" in name else first.to(trained)
    return torch.cat([trained, second], 0) if "_A" in name else torch.cat([trained, -second], 1)


def _rebase(model: Any, folder: Path) -> None:
    """Make the base the one that the matrices in `folder` were taken out of, and those the LoRA's."""
    import torch

    layers = {name: layer for name, layer in model.named_modules() if "default" in getattr(layer, "lora_A", {})}
    shapes = {
        f"{name}.lora_{side}.weight": tuple(getattr(layer, f"lora_{side}")["default"].weight.shape)
        for name, layer in layers.items()
        for side in "AB"
    }
    first = _read_start(folder, shapes)
    for name, layer in layers.items():
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        a0, b0 = (first[f"{name}.lora_{side}.weight"].to(a) for side in "AB")
        if torch.equal(a, a0) and torch.equal(b, b0):
            continue
        weight = layer.get_base_layer().weight
        difference = layer.scaling["default"] * (b.float() @ a.float() - b0.float() @ a0.float())
        weight.data = (weight.data.float() + difference).to(weight.dtype)
        a.data, b.data = a0, b0
