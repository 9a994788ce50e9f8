"""Loading the model that is trained, through Unsloth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fastft import backend
from fastft.base_identity import BaseIdentity, identify
from fastft.errors import ModelError
from fastft.lora_start import adapter_folder, adapter_on, base_of_adapter
from fastft.model_code import trusted_options
from fastft.model_files import TINY, resolve_model
from fastft.model_loading import attention_options

if TYPE_CHECKING:
    from fastft.planning.memory import Checkpointing
    from fastft.recipe.schema import LoraSection, ModelSection


def load_model(
    model: ModelSection,
    lora: LoraSection | None,
    *,
    classifies: bool = False,
    checkpointing: Checkpointing = "unsloth",
    further: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Any, Any]:
    """(model, tokenizer) as Unsloth loads them: 4-bit, 16-bit or full, with LoRA adapters if `lora` is given.

    With `classifies` it has a new head that gives one score in place of its language head; the LoRA trains it whole.
    `checkpointing` is how activations are kept where `lora` leaves it to us, or where everything is trained.
    `further` are arguments of Unsloth's `from_pretrained` that a recipe has no key for.

    Raises ModelError if the weights can't be loaded or a target module doesn't exist.
    """
    fast_language_model = backend.import_unsloth()
    options = model.model_dump(exclude={"model_name", "dtype", "trust_remote_code"}, exclude_none=True)
    options["dtype"] = _torch_dtype(model.dtype)
    if lora is None:
        options["use_gradient_checkpointing"] = checkpointing
    elif lora.use_gradient_checkpointing == "auto":
        lora = lora.model_copy(update={"use_gradient_checkpointing": checkpointing})
    local = model.model_name == TINY or Path(model.model_name).is_dir()
    name = str(resolve_model(model.model_name, weights=True)) if local else model.model_name
    folder = resolve_model(model.model_name, model.revision, weights=False)
    options |= trusted_options(model, folder)
    if backend.uses_cpu_backend():  # on a GPU Unsloth has attention of its own for such models
        options |= attention_options(folder)
    options |= further
    try:
        if lora is not None and lora.adapter_name_or_path is not None:
            return _with_trained_lora(fast_language_model, name, lora, options)
        options |= backend.classifier_options(classifies)
        loaded, tokenizer = fast_language_model.from_pretrained(model_name=name, **options)
        loaded = backend.as_classifier(loaded, lora.random_state if lora else 0) if classifies else loaded
        if lora is not None:
            loaded = _add_lora(fast_language_model, loaded, lora, model.max_seq_length, classifies)
            backend.fuse_lora_on_cpu(loaded)
    except (OSError, ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        raise ModelError(
            f"{model.model_name} can't be loaded: {_first_line(error)}",
            hint="The run's train.log holds what Unsloth said; --traceback shows where it happened.",
        ) from error
    return loaded, tokenizer


def identify_base(loaded: Any, model: ModelSection, lora: LoraSection | None = None) -> BaseIdentity:
    """What `load_model` read: the recipe's model, or the 4-bit repository that Unsloth took in its place.

    Raises ModelError if an adapter that is gone on with was trained on other files of that name.
    """
    name = str(getattr(loaded.config, "_name_or_path", "")) or model.model_name
    named = Path(name).is_dir() or name == model.model_name
    found = identify(model.model_name, model.revision) if named else identify(name)
    if lora is not None and (known := base_of_adapter(lora)) is not None:
        known.require_same(found)
    return found


def _add_lora(
    fast_language_model: Any, model: Any, lora: LoraSection, max_seq_length: int | None, classifies: bool
) -> Any:
    options = lora.model_dump(exclude={"target_modules", "use_dora"}, exclude_none=True)
    options.setdefault("lora_alpha", lora.r)
    if lora.target_modules != "auto":  # left out, Unsloth takes every attention and MLP projection
        options["target_modules"] = lora.target_modules
    if lora.use_dora:
        options["use_dora"] = True
    if not classifies:
        return fast_language_model.get_peft_model(model, max_seq_length=max_seq_length, **options)
    options = backend.lora_of_classifier(options)
    adapted = fast_language_model.get_peft_model(model, max_seq_length=max_seq_length, **options)
    backend.mark_as_classifier(adapted)
    return adapted


def _with_trained_lora(
    fast_language_model: Any, base: str, lora: LoraSection, options: dict[str, Any]
) -> tuple[Any, Any]:
    """(model, tokenizer) with the adapter the recipe goes on with, its weights trainable."""
    from fastft.model_loading import check_all_found

    options = {**options, "use_gradient_checkpointing": lora.use_gradient_checkpointing}
    with adapter_on(base, options.pop("revision", None), lora) as adapter:
        loaded, tokenizer = fast_language_model.from_pretrained(model_name=adapter, **options)
    check_all_found(loaded, adapter_folder(str(lora.adapter_name_or_path)))
    backend.fuse_lora_on_cpu(loaded)
    return loaded, tokenizer


def _torch_dtype(name: str | None) -> Any:
    if name is None:
        return None
    import torch

    return getattr(torch, name)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
