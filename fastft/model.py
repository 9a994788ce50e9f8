"""Loading the model that is trained, through Unsloth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft import backend
from fastft.base_identity import BaseIdentity, identify
from fastft.errors import ModelError
from fastft.model_files import TINY, resolve_model
from fastft.model_loading import attention_options

if TYPE_CHECKING:
    from fastft.recipe.schema import LoraSection, ModelSection


def load_model(model: ModelSection, lora: LoraSection | None) -> tuple[Any, Any]:
    """(model, tokenizer) as Unsloth loads them: 4-bit, 16-bit or full, with LoRA adapters if `lora` is given.

    Raises ModelError if the weights can't be loaded or a target module doesn't exist.
    """
    fast_language_model = backend.import_unsloth()
    options = model.model_dump(exclude={"model_name", "dtype"}, exclude_none=True)
    name = str(resolve_model(model.model_name, weights=True)) if model.model_name == TINY else model.model_name
    if backend.uses_cpu_backend():  # on a GPU Unsloth has attention of its own for such models
        folder = resolve_model(model.model_name, model.revision, weights=False)
        options |= attention_options(folder)
    try:
        loaded, tokenizer = fast_language_model.from_pretrained(
            model_name=name, dtype=_torch_dtype(model.dtype), **options
        )
        if lora is not None:
            loaded = _add_lora(fast_language_model, loaded, lora, model.max_seq_length)
    except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ModelError(
            f"{model.model_name} can't be loaded: {_first_line(error)}",
            hint="The run's train.log holds what Unsloth said; --traceback shows where it happened.",
        ) from error
    return loaded, tokenizer


def identify_base(loaded: Any, model: ModelSection) -> BaseIdentity:
    """What `load_model` read: the recipe's model, or the 4-bit repository that Unsloth took in its place."""
    name = str(getattr(loaded.config, "_name_or_path", "")) or model.model_name
    if Path(name).is_dir() or name == model.model_name:
        return identify(model.model_name, model.revision)
    return identify(name)


def _add_lora(fast_language_model: Any, model: Any, lora: LoraSection, max_seq_length: int | None) -> Any:
    options = lora.model_dump(exclude={"target_modules", "use_dora"}, exclude_none=True)
    options.setdefault("lora_alpha", lora.r)
    if lora.target_modules != "auto":  # left out, Unsloth takes every attention and MLP projection
        options["target_modules"] = lora.target_modules
    if lora.use_dora:
        options["use_dora"] = True
    return fast_language_model.get_peft_model(model, max_seq_length=max_seq_length, **options)


def _torch_dtype(name: str | None) -> Any:
    if name is None:
        return None
    import torch

    return getattr(torch, name)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
