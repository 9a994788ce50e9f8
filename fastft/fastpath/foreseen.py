"""What will be lost of the fast path, told from recipe, config and device alone: nothing is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastft.fastpath import lost
from fastft.fastpath.lost import Lost
from fastft.planning.cards import find_card

if TYPE_CHECKING:
    from fastft.device import Device
    from fastft.recipe.schema import LoraSection, Recipe

# unsloth/models/loader.py, FastLanguageModel.from_pretrained: everything else goes to FastModel.
FAST_TYPES = ("llama", "mistral", "gemma", "gemma2", "qwen2", "qwen3")
_UNPACKED_TYPES = ("gemma2", "gpt_oss")  # unsloth/trainer.py, PADDING_FREE_BLOCKLIST
_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj", "down_proj"))
_WHOLE = ("embed_tokens", "lm_head")

# variable, the value that costs something, what is lost, the cost
_VARIABLES = (
    ("UNSLOTH_RETURN_LOGITS", "1", "fused cross entropy, packing and padding-free batches", lost.UNPACKED),
    ("UNSLOTH_COMPILE_DISABLE", "1", "torch.compile of Unsloth's layers", "how much wasn't measured"),
    ("UNSLOTH_TORCH_VARLEN", "0", "torch's varlen attention", lost.BY_DOCUMENT),
    ("UNSLOTH_SDPA_PACKED_SEGMENTS", "0", "packed attention", "time and memory grow with the square of a pack"),
    ("UNSLOTH_BNB_TRITON", "0", "Unsloth's kernels for 4-bit weights", "how much wasn't measured"),
    ("UNSLOTH_USE_NEW_MODEL", "1", "Unsloth's layers", lost.GENERIC),
    ("UNSLOTH_DISABLE_AUTO_PADDING_FREE", "1", "padding-free batches", "padding is computed"),
)
_CPU_VARIABLES = (("UNSLOTH_CPU_CHUNKED_CE", "0", "cross entropy in chunks", "memory for the logits of every token"),)


def foreseen(
    recipe: Recipe, config: Mapping[str, Any], device: Device, arguments: Mapping[str, Any]
) -> tuple[str, ...]:
    """Warnings for `check`, one a loss. `config` is the text model's config.json, `arguments` have every default."""
    lora = recipe.lora
    found = [*_trained_whole(lora, config), *_smoothed(recipe, config, arguments)]
    if device.is_cpu:
        found += [*_variables(_CPU_VARIABLES), *(_fused_on_cpu(lora) if lora is not None else ())]
    else:
        found += [*_variables(_VARIABLES), *_layers(recipe, config), *_packing(config, device, arguments)]
        found += _precision(recipe, device)
    return tuple(str(each) for each in found)


def _variables(table: tuple[tuple[str, str, str, str], ...]) -> Iterator[Lost]:
    for name, value, what, cost in table:
        if os.environ.get(name) == value:
            yield Lost(what, f"the environment has {name}={value}", cost)


def _layers(recipe: Recipe, config: Mapping[str, Any]) -> Iterator[Lost]:
    """`unsloth/models/loader.py` decides on the path, `patch_peft_model` in `llama.py` on the kernels."""
    kind, model, lora = str(config.get("model_type", "")), recipe.model, recipe.lora
    ways = [way for way in ("load_in_8bit", "full_finetuning") if getattr(model, way)]
    if kind not in FAST_TYPES:
        yield Lost(
            "Unsloth's layers", f"it has hand-written ones for {', '.join(FAST_TYPES)}, not {kind}", lost.GENERIC
        )
    elif ways:
        yield Lost("Unsloth's layers", f"model.{ways[0]} takes its generic path", lost.GENERIC)
    elif lora is not None and lora.adapter_name_or_path is None:
        yield from _fused(lora)
        if kind == "qwen2" or config.get("attention_bias"):
            yield Lost("fused LoRA of q, k and v", f"{kind} has biases on them", lost.UNFUSED)


def _fused(lora: LoraSection) -> Iterator[Lost]:
    if lora.bias != "none":
        yield Lost("fused LoRA", f"lora.bias is {lora.bias}", lost.UNFUSED)
    if lora.use_dora:
        yield Lost("fused LoRA", "lora.use_dora is true", lost.UNFUSED)
    if lora.lora_dropout and os.environ.get("UNSLOTH_FUSED_LORA_DROPOUT") == "0":
        yield Lost("fused LoRA", "lora.lora_dropout with UNSLOTH_FUSED_LORA_DROPOUT=0", lost.UNFUSED)
    if not isinstance(lora.target_modules, list):
        return
    for names in _TOGETHER:
        chosen = [name for name in names if name in lora.target_modules]
        if chosen and len(chosen) < len(names):
            missing = ", ".join(name for name in names if name not in chosen)
            yield Lost("fused LoRA", f"lora.target_modules has {', '.join(chosen)} without {missing}", lost.UNFUSED)


def _fused_on_cpu(lora: LoraSection) -> Iterator[Lost]:
    """What fused_lora.py leaves to PEFT."""
    told = {"lora.use_dora is true": lora.use_dora, f"lora.bias is {lora.bias}": lora.bias != "none"}
    told[f"lora.lora_dropout is {lora.lora_dropout}"] = lora.lora_dropout > 0
    if lora.adapter_name_or_path is None and (causes := [cause for cause, is_so in told.items() if is_so]):
        yield Lost("fused LoRA", " and ".join(causes), lost.UNFUSED)


def _whole(config: Mapping[str, Any], key: str) -> int:
    """A size of config.json, which may be anyone's; 0 for what is no number."""
    value = config.get(key)
    return value if isinstance(value, int) else 0


def _trained_whole(lora: LoraSection | None, config: Mapping[str, Any]) -> Iterator[Lost]:
    if lora is None or lora.adapter_name_or_path is not None:
        return
    targets = lora.target_modules if isinstance(lora.target_modules, list) else []
    chosen = [name for name in _WHOLE if name in (*(lora.modules_to_save or ()), *targets)]
    size = _whole(config, "vocab_size") * _whole(config, "hidden_size")
    if chosen and lost.STATES * len(chosen) * size >= 1e9:
        verb = "are" if len(chosen) > 1 else "is"
        yield Lost("memory", f"{' and '.join(chosen)} {verb} trained whole", lost.trained_whole(len(chosen) * size))


def _smoothed(recipe: Recipe, config: Mapping[str, Any], arguments: Mapping[str, Any]) -> Iterator[Lost]:
    """transformers' LabelSmoother takes all logits at once."""
    if recipe.method not in ("sft", "pretrain") or not arguments.get("label_smoothing_factor"):
        return
    tokens = int(arguments.get("per_device_train_batch_size") or 1) * int(arguments.get("max_length") or 0)
    cost = lost.full_logits(tokens, _whole(config, "vocab_size"))
    yield Lost("cross entropy", "training.label_smoothing_factor is computed from every logit", cost)


def _packing(config: Mapping[str, Any], device: Device, arguments: Mapping[str, Any]) -> Iterator[Lost]:
    """Packed attention: FlashAttention, torch's varlen from torch 2.12 and compute capability 8.0, xformers, SDPA."""
    if not arguments.get("packing"):
        return
    kind = str(config.get("model_type", ""))
    if kind in _UNPACKED_TYPES:
        yield Lost("packing", f"Unsloth packs no {kind}", lost.UNPACKED)
        return
    if find_spec("flash_attn") is not None:
        return
    card = find_card(device.name)
    old = card is not None and card.compute_capability is not None and card.compute_capability < (8, 0)
    if not old and _torch() >= (2, 12):
        return
    causes = {
        True: f"{device.name} is below compute capability 8.0",
        False: f"torch {_torch()[0]}.{_torch()[1]} has none",
    }
    kernel = "xformers takes its place" if find_spec("xformers") is not None else lost.BY_DOCUMENT
    yield Lost("torch's varlen attention", causes[old], kernel)


def _precision(recipe: Recipe, device: Device) -> Iterator[Lost]:
    card = find_card(device.name)
    capability = card.compute_capability if card is not None else None
    if capability is not None and capability < (8, 0):
        if recipe.model.dtype == "bfloat16":
            yield Lost("bf16", f"{device.name} has no units for it", "it is emulated; leave model.dtype out for fp16")
        elif recipe.model.dtype is None:
            yield Lost("bf16", f"{device.name} has no units for it", "fp16 with loss scaling takes its place")
    if recipe.model.dtype == "float32":
        yield Lost("16 bits", "model.dtype is float32", f"twice the bytes and no tensor cores; {lost.UNFUSED}")


def _torch() -> tuple[int, int]:
    """(major, minor) of the installed torch, without importing it; (0, 0) where there is none."""
    try:
        major, minor = version("torch").split(".")[:2]
    except PackageNotFoundError:
        return 0, 0
    return int(major), int(minor)
