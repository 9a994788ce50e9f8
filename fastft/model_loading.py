"""Getting a model into memory with plain transformers and PEFT, or saying what is wrong with its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastft.errors import ModelError
from fastft.host_memory import free_memory
from fastft.model_code import forbid_model_code, refuse_model_code, require_adapter_weights, require_safetensors
from fastft.model_files import read_text_config
from fastft.run_files import read_generation

if TYPE_CHECKING:
    import torch

DtypeName = Literal["float32", "bfloat16", "float16"]
REBUILD = "Make the folder again: for an export, fastft export RUN --overwrite; for an adapter, train again."


def placement(folder: Path, dtype: DtypeName | None) -> tuple[DtypeName, str]:
    """(type to compute in, device): float32 on the GPU if it has room for it, else bfloat16 there, else the CPU."""
    import torch

    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors") if path.is_file())
    needed = {"float32": 2 * weights, "bfloat16": weights, "float16": weights}  # bytes; the files hold 16 bits
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
    candidates: tuple[DtypeName, ...] = (dtype,) if dtype else ("float32", "bfloat16")
    for candidate in candidates:
        if free > 1.25 * needed[candidate]:
            return candidate, "cuda"
    if dtype is None:
        dtype = "float32" if 1.25 * needed["float32"] < free_memory() else "bfloat16"
    return dtype, "cpu"


def require_readable(folder: Path, adapter: Path | None = None) -> None:
    """What can be told without torch of a model's folder and the adapter on it. Raises ModelError."""
    require_safetensors(folder)
    refuse_model_code(folder)
    if adapter is not None:
        require_adapter_weights(adapter)


def load_weights(folder: Path, dtype: torch.dtype) -> Any:
    """The causal language model in `folder`, on the CPU. Raises ModelError if a file is broken or a tensor missing."""
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    options = {**only_weights(folder), **attention_options(folder)}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
    except Exception as error:
        raise ModelError(f"The model in {folder} can't be loaded: {_first_line(error)}", hint=REBUILD) from error
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:  # transformers would go on with random weights
        raise ModelError(f"The model in {folder} lacks {len(missing)} tensors, the first {missing[0]}", hint=REBUILD)
    if getattr(model, "is_quantized", False):  # a base of which only 4 bits are left is merged dequantised
        model = model.dequantize().to(dtype)
    # generate() fills what it isn't told from this, so a repetition penalty in the folder's file would change answers.
    model.generation_config = GenerationConfig()
    return model


def only_weights(folder: Path) -> dict[str, Any]:
    """`from_pretrained`'s arguments by which a model's folder gives weights and nothing that runs.

    Raises ModelError if it has its weights as a pickle, or needs code of its own.
    """
    require_safetensors(folder)
    refuse_model_code(folder)
    forbid_model_code()
    return {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}


def attention_options(folder: Path) -> dict[str, Any]:
    """Eager attention for models that cap attention's logits (Gemma 2): transformers' SDPA leaves the cap out."""
    capped = read_text_config(folder).get("attn_logit_softcapping")
    return {"attn_implementation": "eager"} if capped else {}


def with_adapter(model: Any, adapter: Path) -> Any:
    """`model` with the LoRA adapter on it. Raises ModelError if they don't belong together."""
    from peft import PeftModel

    if not (adapter / "adapter_config.json").is_file():
        raise ModelError(f"{adapter} holds no adapter_config.json, so it is no LoRA adapter", hint=REBUILD)
    require_adapter_weights(adapter)
    try:
        adapted = PeftModel.from_pretrained(model, str(adapter))
    except Exception as error:
        raise ModelError(f"The adapter in {adapter} can't be loaded: {_first_line(error)}", hint=REBUILD) from error
    check_all_found(adapted, adapter)
    return adapted


def check_all_found(adapted: Any, adapter: Path) -> None:
    """PEFT only warns of weights that have no place in the model, and leaves the places without weights at zero."""
    from safetensors import safe_open

    products = (".lora_A", ".lora_B", ".lora_embedding_A", ".lora_embedding_B")
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
        names = list(file.keys())
    stored = {name for name in names if any(part in name for part in products)}
    known = [name.replace(".default", "") for name, _ in adapted.named_parameters()]
    places = {name for name in known if any(part in name for part in products)}
    strangers = sorted(places ^ stored)
    if strangers:
        raise ModelError(
            f"The adapter in {adapter} does not fit its base: {len(strangers)} LoRA weights have no counterpart, "
            f"the first {strangers[0]}",
            hint="It was trained on another model. " + REBUILD,
        )


def stop_and_pad(folder: Path, base: Path) -> tuple[list[int], int]:
    """Stop and padding ids of `folder`'s generation config; where it has none, those of the base's config.

    Raises ModelError if that file is no JSON.
    """
    path = next(
        (p / "generation_config.json" for p in (folder, base) if (p / "generation_config.json").is_file()), None
    )
    path = path or base / "config.json"
    settings = read_generation(path)
    stops = settings.get("eos_token_id")
    stops = stops if isinstance(stops, list) else [stops] if stops is not None else []
    pad = settings.get("pad_token_id")
    return stops, pad if pad is not None else (stops[0] if stops else 0)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
