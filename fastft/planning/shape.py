"""The sizes of a model as its config.json tells them, family by family; no weights, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastft.model_files import read_config
from fastft.planning.sizes import NF4_BYTES, Shape

# What configurations call the same size; the first one that is there counts.
_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim", "n_embed")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
_INNER = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff", "ffn_hidden_dim")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_ACTIVE = ("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "num_experts_per_token")

_MOST_LAYERS = 10_000  # each is counted by itself
_SEPARATE = ("q_proj", "k_proj", "v_proj", "o_proj")
_NEOX = (("query_key_value", "dense"), ("dense_h_to_4h", "dense_4h_to_h"))
# Families without a gate in the MLP, or with joined projections: names of attention and MLP, and whether it is gated.
_FAMILIES: dict[str, tuple[tuple[str, ...], tuple[str, ...], bool]] = {
    "phi3": (("qkv_proj", "o_proj"), ("gate_up_proj", "down_proj"), True),
    "glm": (_SEPARATE, ("gate_up_proj", "down_proj"), True),
    "glm4": (_SEPARATE, ("gate_up_proj", "down_proj"), True),
    "granite": (_SEPARATE, ("gate_proj", "up_proj", "down_proj"), True),
    "gpt2": (("c_attn", "c_proj"), ("c_fc", "c_proj"), False),
    "gpt_bigcode": (("c_attn", "c_proj"), ("c_fc", "c_proj"), False),
    "starcoder2": (_SEPARATE, ("c_fc", "c_proj"), False),
    "gpt_neox": (*_NEOX, False),
    "bloom": (*_NEOX, False),
    "falcon": (*_NEOX, False),
    "mpt": (("Wqkv", "out_proj"), ("up_proj", "down_proj"), False),
    "opt": (("q_proj", "k_proj", "v_proj", "out_proj"), ("fc1", "fc2"), False),
    "phi": (("q_proj", "k_proj", "v_proj", "dense"), ("fc1", "fc2"), False),
    "gptj": (("q_proj", "k_proj", "v_proj", "out_proj"), ("fc_in", "fc_out"), False),
    "codegen": (("qkv_proj", "out_proj"), ("fc_in", "fc_out"), False),
    "nemotron": (_SEPARATE, ("up_proj", "down_proj"), False),
    "arcee": (_SEPARATE, ("up_proj", "down_proj"), False),
    "apertus": (_SEPARATE, ("up_proj", "down_proj"), False),
}
# Families whose configurations have the width of the MLP under a name of their own, or none (four times the hidden
# size), and those whose heads all have keys and values of their own.
_OWN_INNER = {"bloom": (), "mpt": (), "falcon": ("ffn_hidden_size",), "gpt2": ("n_inner",), "opt": ("ffn_dim",),
              "gpt_bigcode": ("n_inner",), "gptj": ("n_inner",), "codegen": ("n_inner",)}  # fmt: skip
_UNGROUPED = ("bloom", "mpt", "gpt2", "gpt_neox", "opt", "gptj", "codegen")
# Layers that carry a state along in place of attention have other projections, which config.json doesn't spell out.
_NOT_READ = frozenset((
    "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear", "lfm2", "lfm2_moe", "mamba",
    "mamba2", "minimax", "nemotron_h", "olmo_hybrid", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text",
    "qwen3_next", "qwen4_exp", "recurrent_gemma", "rwkv", "zamba", "zamba2", "t5", "mt5", "bart", "mbart", "whisper",
))  # fmt: skip


def read_shape(folder: Path) -> Shape | None:
    """The shape told by config.json in `folder`, or None for a model whose configuration says it in other words."""
    return shape_of(read_config(folder))


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """As `read_shape`, of a configuration that was read; that of a model of text and images has `text_config`."""
    text: Mapping[str, Any] = config.get("text_config") or config
    if not isinstance(text, Mapping) or str(text.get("model_type", "")) in _NOT_READ:
        return None
    try:
        return _shape(text, config)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
        return None


def _shape(text: Mapping[str, Any], config: Mapping[str, Any]) -> Shape:
    kind = str(text.get("model_type", ""))
    attention, mlp, gated = _FAMILIES.get(kind, (_SEPARATE, ("gate_proj", "up_proj", "down_proj"), True))
    hidden, heads = _first(text, _HIDDEN), _first(text, _HEADS)
    experts = _first(text, _EXPERTS, 1)
    inner = _first(text, _OWN_INNER.get(kind, _INNER), 4 * hidden)
    own = text.get("moe_intermediate_size") or text.get("moe_ffn_hidden_size") or inner
    layers = _first(text, _LAYERS)
    if min(layers, hidden, heads) < 1 or layers > _MOST_LAYERS:
        raise ValueError("no model has such sizes")
    window, windowed = _window(text, layers)
    shape = Shape(
        hidden=hidden,
        intermediate=int(own) if experts > 1 else inner,
        layers=layers,
        heads=heads,
        kv_heads=_kv_heads(text, kind, heads),
        head_dim=_head_dim(text, hidden, heads),
        vocabulary=_first(text, ("vocab_size",)),
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", _tied_unless_said(kind)))),
        experts=experts,
        active=_first(text, _ACTIVE, 2) if experts > 1 else 1,
        shared=_shared(text, int(own)) if experts > 1 else 0,
        dense_layers=_dense_layers(text, layers) if experts > 1 else 0,
        dense_intermediate=inner if experts > 1 else 0,
        gated=gated,
        attention=attention,
        mlp=mlp,
        latent=_latent(text),
        further=_towers(config) + _layer_embeddings(text, layers) + _positions(text, kind, hidden),
        window=window,
        windowed=windowed,
    )
    quantised = config.get("quantization_config") or text.get("quantization_config")
    return _as_stored(shape, quantised) if isinstance(quantised, Mapping) else shape


# Bytes a weight of what repositories are quantised as: MXFP4 has a scale of 8 bits for 32 weights.
_STORED = {"mxfp4": 0.53125, "fp8": 1.0, "fbgemm_fp8": 1.0, "compressed-tensors": 1.0, "gptq": 0.56, "awq": 0.56}


def _as_stored(shape: Shape, config: Mapping[str, Any]) -> Shape:
    """With what `quantization_config` says; modules it leaves out stay in 16 bits (Unsloth's dynamic 4-bit ones)."""
    if config.get("load_in_8bit"):
        return replace(shape, stored=1.0)
    if not (config.get("load_in_4bit") or config.get("_load_in_4bit")):
        return replace(shape, stored=_STORED.get(str(config.get("quant_method")), 0.0))
    left_out = [_tail(str(name)) for name in config.get("llm_int8_skip_modules") or ()]
    kept = sum(
        one.weights for one, layers in shape.hit("all-linear", None) for layer in layers
        if any(f"layers.{layer}.{one.name}.".startswith(f"{name}.") for name in left_out)
    )  # fmt: skip
    return replace(shape, stored=NF4_BYTES, kept=kept)


def _tail(name: str) -> str:
    """From "layers." on, as wrappers of models differ."""
    return name[name.index("layers.") :] if "layers." in name else name


def _first(values: Mapping[str, Any], names: Sequence[str], default: int | None = None) -> int:
    for name in names:
        value = values.get(name)
        if value is not None:
            return int(value[0]) if isinstance(value, list) else int(value)
    if default is None:
        raise KeyError(names[0])
    return default


def _kv_heads(text: Mapping[str, Any], kind: str, heads: int) -> int:
    if kind in _UNGROUPED:
        return heads
    if kind == "falcon" and text.get("new_decoder_architecture"):
        return _first(text, ("num_kv_heads",), heads)
    if text.get("multi_query"):
        return 1
    return _first(text, _KV_HEADS, heads)


def _head_dim(text: Mapping[str, Any], hidden: int, heads: int) -> int:
    if text.get("kv_lora_rank"):
        return int(text["qk_nope_head_dim"])
    return int(text.get("head_dim") or hidden // heads)


def _tied_unless_said(kind: str) -> bool:
    """What transformers' configuration classes take where config.json doesn't say it."""
    return kind in ("gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n_text", "gemma4_text", "gpt2", "gpt_bigcode",
                    "bloom", "falcon", "mpt", "opt", "starcoder2", "cohere", "cohere2")  # fmt: skip


def _shared(text: Mapping[str, Any], own: int) -> int:
    count = int(
        text.get("n_shared_experts") or text.get("num_shared_experts") or text.get("moe_num_shared_experts") or 0
    )
    return int(text.get("shared_expert_intermediate_size") or text.get("shared_intermediate_size") or count * own)


def _dense_layers(text: Mapping[str, Any], layers: int) -> int:
    if kinds := text.get("mlp_layer_types"):
        return sum(kind == "dense" for kind in kinds)
    only = len(text.get("mlp_only_layers") or ())
    step = int(text.get("decoder_sparse_step") or text.get("interleave_moe_layer_step") or 1)
    if step > 1:
        return layers - layers // step
    return int(text.get("first_k_dense_replace") or text.get("num_dense_layers") or only)


def _latent(text: Mapping[str, Any]) -> tuple[int, int, int, int]:
    if not text.get("kv_lora_rank"):
        return (0, 0, 0, 0)
    rank_q, rotated = int(text.get("q_lora_rank") or 0), int(text["qk_rope_head_dim"])
    return (rank_q, int(text["kv_lora_rank"]), rotated, int(text["v_head_dim"]))


def _window(text: Mapping[str, Any], layers: int) -> tuple[int, int]:
    """(tokens, layers) of sliding attention."""
    size = int(text.get("sliding_window") or 0)
    if not size or text.get("use_sliding_window") is False:
        return 0, 0
    if kinds := text.get("layer_types"):
        return size, sum("sliding" in str(kind) for kind in kinds)
    return size, layers


def _towers(config: Mapping[str, Any]) -> int:
    """Parameters of the towers for images and sound that are loaded with the model: four square attention projections
    and two of the MLP a layer."""
    found = 0
    for name in ("vision_config", "audio_config"):
        tower = config.get(name)
        if not isinstance(tower, Mapping):
            continue
        width = _first(tower, (*_HIDDEN, "embed_dim"), 0)
        depth = _first(tower, (*_LAYERS, "depth"), 0)
        inner = _first(tower, _INNER, 4 * width)
        found += depth * (4 * width * width + 2 * width * inner)
    return found


def _positions(text: Mapping[str, Any], kind: str, hidden: int) -> int:
    """Embeddings of positions, which older families learn."""
    if kind not in ("gpt2", "gpt_bigcode", "opt"):
        return 0
    return hidden * _first(text, ("max_position_embeddings", "n_positions"), 0)


def _layer_embeddings(text: Mapping[str, Any], layers: int) -> int:
    """Gemma 3n and 4 have a small embedding of every token for each layer."""
    width = int(text.get("hidden_size_per_layer_input") or 0)
    return int(text.get("vocab_size_per_layer_input") or text.get("vocab_size") or 0) * width * layers if width else 0
