"""A model given to a trainer as text: loaded through Unsloth, as the trainer's arguments say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from fastft.errors import ModelError
from fastft.files import is_folder
from fastft.model import load_model
from fastft.model_files import read_text_config, resolve_model
from fastft.recipe.schema import Dtype, LoraSection, ModelSection

_USUAL_LENGTH = 2048
# Fields of PEFT's LoraConfig that Unsloth's get_peft_model makes the same adapter of.
_KNOWN_LORA = ("r", "lora_alpha", "lora_dropout", "bias", "use_rslora", "use_dora", "layers_to_transform")
_BESIDE = ("peft_type", "task_type", "inference_mode", "base_model_name_or_path", "revision", "target_modules",
           "modules_to_save", "runtime_config", "auto_mapping", "peft_version")  # fmt: skip
_PROJECTIONS = frozenset(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))


def load_for(
    name: str, args: Any, peft_config: Any, quantization_config: Any, *, classifies: bool
) -> tuple[Any, Any, Any]:
    """(model, tokenizer, the peft_config that is left for TRL). `args` is the trainer's config.

    The type of the weights is TRL's choice: float32, unless `args.model_init_kwargs` has a dtype. A LoRA is made by
    Unsloth where it can make the same one, else by TRL. Raises ModelError for a model that can't be loaded so.
    """
    from transformers import set_seed

    _prepare_stage(name)
    given = _init_arguments(args, quantization_config)
    folder = resolve_model(name, given.get("revision"), weights=False)
    length = getattr(args, "max_length", None) or read_text_config(folder).get("max_position_embeddings")
    lora = lora_section(peft_config, args, read_text_config(folder).get("model_type", ""))
    section = _model_section(name, given, max(8, length or _USUAL_LENGTH), adapted=peft_config is not None)
    set_seed(args.seed)  # as TRL does before it makes heads and adapters
    loaded, tokenizer = load_model(section, lora, classifies=classifies, further=given)
    return loaded, tokenizer, None if lora is not None else peft_config


def _prepare_stage(name: str) -> None:
    """A run as the model: its adapter is merged, unless that was done."""
    if is_folder(name):
        from rich.console import Console

        from fastft.stages import prepare_stage

        prepare_stage(name, Console(stderr=True))


def _init_arguments(args: Any, quantization_config: Any) -> dict[str, Any]:
    """What is said of the loading, in both places; what is None says nothing."""
    given = {key: value for key, value in (args.model_init_kwargs or {}).items() if value is not None}
    if quantization_config is not None and "quantization_config" in given:
        raise ValueError("quantization_config is given both to the trainer and in args.model_init_kwargs: set one")
    if quantization_config is not None:
        given["quantization_config"] = quantization_config
    given.setdefault("trust_remote_code", args.trust_remote_code)
    return given


def _model_section(name: str, given: dict[str, Any], length: int, *, adapted: bool) -> ModelSection:
    """Takes out of `given` what the section says; the rest is for `from_pretrained`."""
    bits = _bits(given)
    values = {
        "model_name": name,
        "max_seq_length": length,
        "load_in_4bit": bits == 4,
        "load_in_8bit": bits == 8,
        "load_in_16bit": bits is None and adapted,
        "full_finetuning": bits is None and not adapted,
        "dtype": _dtype(given),
        "revision": given.pop("revision", None),
        "trust_remote_code": given.pop("trust_remote_code"),
    }
    try:
        return ModelSection.model_validate(values)
    except ValidationError as error:
        key = error.errors()[0]["loc"][0]
        raise ModelError(f"model_init_kwargs: {key} can't be {values[str(key)]!r}") from error


def _bits(given: dict[str, Any]) -> int | None:
    """Unsloth quantises to 4 or 8 bits itself; another kind of quantisation is handed to transformers as it is."""
    wanted = given.get("quantization_config")
    values = wanted if isinstance(wanted, Mapping) else vars(wanted) if wanted is not None else {}
    for bits in (4, 8):
        key = f"load_in_{bits}bit"  # BitsAndBytesConfig keeps it under another name
        if given.pop(key, False) or values.get(key) or values.get(f"_{key}"):
            _require_nf4(values)
            given.pop("quantization_config", None)
            return bits
    return None


def _require_nf4(values: Mapping[str, Any]) -> None:
    kind = values.get("bnb_4bit_quant_type", "nf4")
    if kind != "nf4" and (values.get("load_in_4bit") or values.get("_load_in_4bit")):
        raise ModelError(
            f"quantization_config asks for 4 bits of type {kind}, and Unsloth loads nf4",
            hint='Set bnb_4bit_quant_type="nf4", or load the model yourself and give the trainer that.',
        )


def _dtype(given: dict[str, Any]) -> Dtype | None:
    """By its name; None lets Unsloth choose, which is what "auto" means there."""
    dtype = given.pop("dtype", given.pop("torch_dtype", "float32"))
    name = str(dtype).removeprefix("torch.")
    return None if name == "auto" else name  # pyright: ignore[reportReturnType]


def lora_section(config: Any, args: Any, model_type: str) -> LoraSection | None:
    """The LoRA that `config` describes, if Unsloth makes the same one; None leaves it to TRL and PEFT."""
    from peft import LoraConfig

    if type(config) is not LoraConfig or config.init_lora_weights is not True:
        return None
    plain = LoraConfig()
    told = {one.name for one in fields(config) if getattr(config, one.name) != getattr(plain, one.name)}
    targets = _targets(config.target_modules, model_type)
    if told - {*_KNOWN_LORA, *_BESIDE} or targets is None:
        return None
    values = {name: getattr(config, name) for name in _KNOWN_LORA}
    values |= {
        "target_modules": targets,
        "modules_to_save": list(config.modules_to_save) if config.modules_to_save else None,
        "random_state": args.seed,
        "use_gradient_checkpointing": "unsloth" if args.gradient_checkpointing else False,
    }
    try:
        return LoraSection.model_validate(values)
    except ValidationError:  # values that PEFT takes and a recipe doesn't
        return None


def _targets(wanted: Any, model_type: str) -> list[str] | str | None:
    """PEFT's choice for the architecture where none is named; None for layers that Unsloth's LoRA may not know."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as MAPPING

    if wanted is None:
        wanted = MAPPING.get(model_type)
    if wanted == "all-linear":
        return wanted
    named = sorted(wanted) if wanted is not None and not isinstance(wanted, str) else []
    return named if named and _PROJECTIONS.issuperset(named) else None
