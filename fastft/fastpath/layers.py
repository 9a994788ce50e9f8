"""Counting what is really in the model: LoRA, 4-bit layers, Unsloth's kernels, recomputation."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

_MIXERS = ("self_attn", "attention", "attn", "linear_attn", "mixer", "mamba")
_PARTS = {"qkv": ("q_proj", "k_proj", "v_proj"), "o": ("o_proj",), "mlp": ("gate_proj", "up_proj", "down_proj")}


@dataclass(frozen=True, slots=True)
class Layers:
    """Counts over the decoder's layers. `fused` and `patched` are None where Unsloth's CUDA code isn't loaded."""

    layers: int
    adapted: int  # layers that hold a LoRA
    projections: int  # linear layers with a LoRA on them
    linear: int  # linear layers of the base
    four_bit: int
    four_bit_left_out: int  # by the checkpoint's own quantisation config
    fused: dict[str, int] | None  # qkv, o, mlp: layers whose LoRA runs in Unsloth's kernels
    unfused: dict[str, int]  # cause -> layer parts
    patched: int | None  # layers whose norms and RoPE are Unsloth's kernels
    recomputed: int
    offloaded: bool
    learned_only: bool  # the loss of Unsloth's CPU backend, which makes logits where a label is, in chunks
    dtypes: dict[str, str]  # base (of its linear layers), adapter


def count_layers(model: Any) -> Layers:
    """What is in `model`, a PEFT model or a whole one."""
    layers = decoder_layers(model)
    linear = [(name, module) for layer in layers for name, module in _linear(layer)]
    fused, unfused = fused_parts(layers)
    return Layers(
        layers=len(layers),
        adapted=sum(any(hasattr(module, "lora_A") for module in layer.modules()) for layer in layers),
        projections=sum(hasattr(module, "lora_A") for layer in layers for module in layer.modules()),
        linear=len(linear),
        four_bit=sum(_is_four_bit(module) for _, module in linear),
        four_bit_left_out=_left_out(model, linear),
        fused=fused,
        unfused=unfused,
        patched=patched_layers(layers),
        recomputed=recomputed_layers(layers),
        offloaded=_offloads(layers),
        learned_only=any(vars(module).get("_unsloth_cpu_chunked_ce", False) for module in model.modules()),
        dtypes=_dtypes(model, [module for _, module in linear]),
    )


def recomputing_now(found: Layers, model: Any) -> Layers:
    """`found` with what is recomputed at this moment."""
    layers = decoder_layers(model)
    return replace(found, recomputed=recomputed_layers(layers), offloaded=_offloads(layers))


def recomputed_layers(layers: list[Any]) -> int:
    return sum(bool(getattr(layer, "gradient_checkpointing", False)) for layer in layers)


def decoder_layers(model: Any) -> list[Any]:
    """The longest list of layers that mix tokens; of experts and vision blocks there may be other lists."""
    from torch.nn import ModuleList

    lists = [module for module in model.modules() if isinstance(module, ModuleList) and len(module)]
    mixing = [found for found in lists if any(hasattr(found[0], name) for name in _MIXERS)]
    return list(max(mixing, key=len, default=()))


def _linear(layer: Any) -> Iterator[tuple[str, Any]]:
    """The base's linear layers, without the two small ones of each LoRA."""
    from torch.nn import Linear

    for name, module in layer.named_modules():
        if isinstance(module, Linear) and "lora_" not in name:
            yield name.removesuffix(".base_layer"), module


def _is_four_bit(module: Any) -> bool:
    from bitsandbytes.nn import Linear4bit  # pyright: ignore[reportPrivateImportUsage]

    return isinstance(module, Linear4bit)


def _left_out(model: Any, linear: list[tuple[str, Any]]) -> int:
    """Layers that a checkpoint quantised beforehand keeps in 16 bits on purpose (Unsloth's dynamic quants)."""
    config = getattr(model.config, "quantization_config", None)
    told = config if isinstance(config, dict) else vars(config) if config is not None else {}
    names = [str(name).split("layers.")[-1] for name in told.get("llm_int8_skip_modules") or ()]
    if not any(name[:1].isdigit() for name in names):
        return 0
    return sum(not _is_four_bit(module) for _, module in linear)


def fused_parts(layers: list[Any]) -> tuple[dict[str, int] | None, dict[str, int]]:
    """Layers whose LoRA runs in Unsloth's kernels, by part, and why others don't. Counted where a LoRA is.

    They are bound as `unsloth/models/llama.py`, patch_peft_model, does: the count it prints itself takes Qwen 2's q, k
    and v for fused, which their biases exclude.
    """
    llama = sys.modules.get("unsloth.models.llama")
    if llama is None:
        return None, {}
    counts, causes = dict.fromkeys(_PARTS, 0), Counter[str]()
    for layer in layers:
        attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
        bound = {
            "qkv": getattr(attention, "apply_qkv", None) is llama.apply_lora_qkv,
            "o": getattr(attention, "apply_o", None) is llama.apply_lora_o,
            "mlp": _runs_fused_mlp(mlp, llama._FUSED_LORA_MLPS),
        }
        for part, names in _PARTS.items():
            owner = mlp if part == "mlp" else attention
            projections = [getattr(owner, name, None) for name in names]
            if bound[part] and not any(_dora(projection) for projection in projections):
                counts[part] += 1
            elif any(hasattr(projection, "lora_A") for projection in projections):
                causes[why_unfused(projections, names)] += 1
    return counts, dict(causes)


def _runs_fused_mlp(mlp: Any, fused: tuple[Any, ...]) -> bool:
    """One of the functions is bound itself, or within a functools.partial (Cohere), or behind a tiled MLP."""
    for name in ("forward", "_unsloth_forward"):
        function = getattr(getattr(mlp, name, None), "__func__", None)
        if getattr(function, "func", function) in fused:
            return True
    return False


def why_unfused(projections: list[Any], names: tuple[str, ...]) -> str:
    """The condition of patch_peft_model that the projections of one part don't meet."""
    without = [name for name, projection in zip(names, projections, strict=True) if not hasattr(projection, "lora_A")]
    if without:
        return f"lora.target_modules leaves out {', '.join(without)} beside {', '.join(set(names) - set(without))}"
    if any(_dora(projection) for projection in projections):
        return "lora.use_dora is true"
    bases = [projection.base_layer for projection in projections]
    if any(base.bias is not None for base in bases):
        return f"the model has biases on {', '.join(names)}"
    if any(str(base.weight.dtype) == "torch.float32" for base in bases):
        return "the base weights are in float32"
    return "lora.bias, or a variable UNSLOTH_*, excludes it"


def _dora(projection: Any) -> bool:
    return len(getattr(projection, "lora_magnitude_vector", None) or ()) > 0


def patched_layers(layers: list[Any]) -> int | None:
    """Layers whose forward is Unsloth's (RMSNorm and RoPE in Triton), or None where its CUDA code isn't loaded."""
    if "unsloth.models.llama" not in sys.modules:
        return None
    return sum(_is_patched(layer) and _is_patched(getattr(layer, "self_attn", None)) for layer in layers)


def _is_patched(module: Any) -> bool:
    """Unsloth patches classes, and its methods look for this mark; its per-block compile wraps them once more."""
    forward = getattr(type(module), "forward", None)
    forward = getattr(forward, "_unsloth_block_original", forward)
    ours = str(getattr(forward, "__module__", "")).startswith("unsloth.models")
    return ours and bool(getattr(module, "_unsloth_fast_path", False))


def _offloads(layers: list[Any]) -> bool:
    """Whether recomputation keeps its inputs in the host's memory: Unsloth's functions say so by mark or by name."""
    for layer in layers:
        function = getattr(layer, "_gradient_checkpointing_func", None)
        function = getattr(function, "func", function)
        named = getattr(function, "__name__", "") in ("unsloth_checkpoint", "unsloth_offloaded_gradient_checkpoint")
        if named or getattr(function, "_unsloth_offloads", False):
            return True
    return False


def _dtypes(model: Any, linear: list[Any]) -> dict[str, str]:
    """The type most weights of each kind are held in; 4-bit weights are stored as bytes and named by their kind."""
    held = {"base": Counter[str](), "adapter": Counter[str]()}
    for module in linear:
        state = getattr(module.weight, "quant_state", None)
        name = state.quant_type if state is not None else str(module.weight.dtype).removeprefix("torch.")
        held["base"][name] += 1
    for parameter in model.parameters():
        if parameter.requires_grad:
            held["adapter"][str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    return {kind: counts.most_common(1)[0][0] for kind, counts in held.items() if counts}
