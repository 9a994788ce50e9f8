"""Which ggml type each tensor of a GGUF file gets: llama-quantize's choice, re-implemented.

A port of `llama_tensor_get_type` and what it calls in llama.cpp's `src/llama-quant.cpp`, without importance matrix
and without overrides, for the file types in SCHEMES. The order of the tensors matters: counters run along it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from fastft.errors import ExportError
from fastft.exporters.ggml import GGMLType, GGUFHeader, TensorInfo


class Scheme(NamedTuple):
    """`file_type` is `enum llama_ftype`; `default` the type of a tensor with no rule of its own.

    `bits` is a weight's cost in bits, a little high: for estimating disk space before anything is written.
    """

    file_type: int
    default: GGMLType
    bits: float


SCHEMES: dict[str, Scheme] = {
    "f32": Scheme(0, GGMLType.F32, 32),
    "f16": Scheme(1, GGMLType.F16, 16),
    "bf16": Scheme(32, GGMLType.BF16, 16),
    "q8_0": Scheme(7, GGMLType.Q8_0, 8.6),
    "q6_k": Scheme(18, GGMLType.Q6_K, 6.7),
    "q5_k_m": Scheme(17, GGMLType.Q5_K, 6.0),
    "q5_k_s": Scheme(16, GGMLType.Q5_K, 5.8),
    "q5_0": Scheme(8, GGMLType.Q5_0, 5.8),
    "q4_k_m": Scheme(15, GGMLType.Q4_K, 5.3),
    "q4_k_s": Scheme(14, GGMLType.Q4_K, 5.0),
    "q4_0": Scheme(2, GGMLType.Q4_0, 5.0),
    "q3_k_m": Scheme(12, GGMLType.Q3_K, 4.4),
    "q2_k": Scheme(10, GGMLType.Q2_K, 3.8),
}

_PLAIN = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)

# Where a row is no multiple of 256. What stands in no row here, llama-quantize refuses.
_FALLBACK = {
    GGMLType.Q2_K: GGMLType.Q4_0,
    GGMLType.Q3_K: GGMLType.Q4_0,
    GGMLType.Q4_K: GGMLType.Q5_0,
    GGMLType.Q5_K: GGMLType.Q5_1,
    GGMLType.Q6_K: GGMLType.Q8_0,
}

# (architecture, layers) that llama.cpp calls a 70B model; of Llama only with grouped-query attention
_SEVENTY_BILLION = {("llama", 80), ("qwen2", 80), ("deci", 80), ("olmo", 80), ("jais2", 68)}

# Substrings of the names of tensors that are never quantised, from `tensor_allows_quantization`.
_NEVER = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight",
    "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight",
    "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight", "time_mix_a1.weight",
    "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight", "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight", "attn_rel_b.weight", ".position_embd", "sam.pos_embd",
    "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger", "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip
_NEVER_WHOLE = ("position_embd.weight", "token_types.weight")


class _Category(Enum):
    OUTPUT = auto()
    TOKEN_EMBEDDING = auto()
    ATTENTION_QKV = auto()
    ATTENTION_KV_B = auto()
    ATTENTION_V = auto()
    ATTENTION_K = auto()
    ATTENTION_OUTPUT = auto()
    FFN_DOWN = auto()
    OTHER = auto()


# First match wins, as in `tensor_get_category`. Q, up and gate have no rule of their own for the types here.
_BY_SUBSTRING = (
    ("attn_qkv.weight", _Category.ATTENTION_QKV),
    ("attn_kv_b.weight", _Category.ATTENTION_KV_B),
    ("attn_v.weight", _Category.ATTENTION_V),
    ("attn_k.weight", _Category.ATTENTION_K),
    ("attn_q.weight", _Category.OTHER),
    ("attn_output.weight", _Category.ATTENTION_OUTPUT),
    ("ffn_up", _Category.OTHER),
    ("ffn_gate", _Category.OTHER),
    ("ffn_down", _Category.FFN_DOWN),
)
_VALUE_LIKE = (_Category.ATTENTION_V, _Category.ATTENTION_QKV, _Category.ATTENTION_KV_B)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the choice needs to know of the model."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    experts: int

    @classmethod
    def of(cls, header: GGUFHeader) -> ModelFacts:
        architecture = header.text("general.architecture") or ""
        heads = header.integer(f"{architecture}.attention.head_count") or 0
        kv_heads = header.integer(f"{architecture}.attention.head_count_kv")
        return cls(
            architecture=architecture,
            layers=header.integer(f"{architecture}.block_count") or 0,
            heads=heads,
            kv_heads=heads if kv_heads is None else kv_heads,
            experts=header.integer(f"{architecture}.expert_count") or 0,
        )

    @property
    def heads_per_kv(self) -> int:
        return self.heads // self.kv_heads if self.kv_heads else 0

    @property
    def is_70b(self) -> bool:
        grouped = self.architecture != "llama" or self.heads != self.kv_heads
        return (self.architecture, self.layers) in _SEVENTY_BILLION and grouped


@dataclass(slots=True)
class _State:
    facts: ModelFacts
    quantization: str
    default: GGMLType
    tied: bool  # no output.weight: the token embeddings are the output too
    values: int  # how many attn_v-like tensors there are
    values_seen: int = field(default=0)
    downs_seen: int = field(default=0)


def choose_types(tensors: Sequence[TensorInfo], facts: ModelFacts, quantization: str) -> dict[str, int]:
    """Tensor name to ggml type, for `tensors` in llama-quantize's order.

    Raises ExportError where llama-quantize refuses: a row that fits no block size it would fall back to.
    """
    categories = {tensor.name: _category(tensor.name) for tensor in tensors}
    state = _State(
        facts=facts,
        quantization=quantization,
        default=SCHEMES[quantization].default,
        tied=_Category.OUTPUT not in categories.values(),
        values=sum(category in _VALUE_LIKE for category in categories.values()),
    )
    return {tensor.name: _type_of(tensor, categories[tensor.name], state) for tensor in tensors}


def quantization_order(name: str) -> tuple[int, str]:
    """Sort key of the order in which llama-quantize goes through the tensors: no layer first, then by layer."""
    layer = re.match(r"blk\.(\d+)\.", name)
    return (int(layer[1]) if layer else -1, name)


def _type_of(tensor: TensorInfo, category: _Category, state: _State) -> int:
    if not _may_be_quantized(tensor):
        return tensor.type
    if state.default in _PLAIN:
        return state.default
    return _fitting(tensor, _preferred(tensor, category, state))


def _may_be_quantized(tensor: TensorInfo) -> bool:
    return (
        tensor.dimensions >= 2
        and tensor.name.endswith("weight")
        and tensor.name not in _NEVER_WHOLE
        and not any(part in tensor.name for part in _NEVER)
    )


def _category(name: str) -> _Category:
    if name == "output.weight":
        return _Category.OUTPUT
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return _Category.TOKEN_EMBEDDING
    return next((category for part, category in _BY_SUBSTRING if part in name), _Category.OTHER)


def _preferred(tensor: TensorInfo, category: _Category, state: _State) -> GGMLType:
    if category is _Category.OUTPUT or (state.tied and category is _Category.TOKEN_EMBEDDING):
        return _output(tensor, state)
    rule = _RULES.get(category)
    return rule(tensor, state) if rule else state.default


def _output(tensor: TensorInfo, state: _State) -> GGMLType:
    if state.facts.architecture == "falcon" or tensor.columns % state.default.block_size:
        return GGMLType.Q8_0
    return GGMLType.Q8_0 if state.default is GGMLType.Q8_0 else GGMLType.Q6_K


def _attention_value(tensor: TensorInfo, state: _State) -> GGMLType:  # noqa: ARG001
    seen, chosen = state.values_seen, state.default
    state.values_seen += 1
    match state.quantization:
        case "q2_k":
            chosen = GGMLType.Q4_K if state.facts.heads_per_kv >= 4 else GGMLType.Q3_K
        case "q3_k_m":
            chosen = GGMLType.Q5_K if seen < 2 else GGMLType.Q4_K
        case "q4_k_m" | "q5_k_m" if _more_bits(seen, state.values):
            chosen = GGMLType.Q6_K
        case "q4_k_s" if seen < 4:
            chosen = GGMLType.Q5_K
    if state.facts.is_70b and chosen in (GGMLType.Q3_K, GGMLType.Q4_K):
        chosen = GGMLType.Q5_K
    return GGMLType.Q8_0 if state.facts.experts == 8 else chosen


def _attention_key(tensor: TensorInfo, state: _State) -> GGMLType:  # noqa: ARG001
    return GGMLType.Q8_0 if state.facts.experts == 8 else state.default


def _attention_output(tensor: TensorInfo, state: _State) -> GGMLType:  # noqa: ARG001
    if state.facts.architecture == "falcon":
        return state.default
    if state.facts.experts == 8:
        raised = ("q2_k", "q3_k_m", "q4_k_s", "q4_k_m")
        return GGMLType.Q5_K if state.quantization in raised else state.default
    return {"q2_k": GGMLType.Q3_K, "q3_k_m": GGMLType.Q4_K}.get(state.quantization, state.default)


def _ffn_down(tensor: TensorInfo, state: _State) -> GGMLType:
    layer, layers = _down_layer(tensor, state), state.facts.layers
    state.downs_seen += 1
    more, falcon = _more_bits(layer, layers), state.facts.architecture == "falcon"
    match state.quantization:
        case "q2_k":
            return GGMLType.Q3_K
        case "q3_k_m" if layer < layers // 16:
            return GGMLType.Q5_K
        case "q3_k_m":
            return GGMLType.Q4_K if not falcon or more else GGMLType.Q3_K
        case "q4_k_m" if falcon and layer >= layers // 16:
            return GGMLType.Q5_K if more else GGMLType.Q4_K
        case "q4_k_m" if falcon or more:
            return GGMLType.Q6_K
        case "q5_k_m" if more:
            return GGMLType.Q6_K
        case "q4_k_s" if not falcon and layer < layers // 8:
            return GGMLType.Q5_K
    return state.default


def _down_layer(tensor: TensorInfo, state: _State) -> int:
    """Of a mixture of experts the layer in the name, otherwise the count of such tensors before this one."""
    return quantization_order(tensor.name)[0] if state.facts.experts > 1 else state.downs_seen


def _more_bits(index: int, count: int) -> bool:
    """The first and last eighth of the layers, and every third between (`use_more_bits`)."""
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2


def _fitting(tensor: TensorInfo, wanted: GGMLType) -> GGMLType:
    """`wanted`, or a type whose blocks divide the row (`tensor_type_fallback`)."""
    if tensor.columns % wanted.block_size == 0:
        return wanted
    fallback = _FALLBACK.get(wanted)
    if fallback is None:
        raise ExportError(
            f"{tensor.name} has rows of {tensor.columns} values, which {wanted.name.lower()} can't store "
            f"(a multiple of {wanted.block_size} is needed)",
            hint="Export this model as f16 or bf16.",
        )
    return fallback if tensor.columns % fallback.block_size == 0 else GGMLType.F16


_RULES: dict[_Category, Callable[[TensorInfo, _State], GGMLType]] = {
    # attn_qkv counts as attn_v in llama.cpp, so its own rule there is never reached
    _Category.ATTENTION_QKV: _attention_value,
    _Category.ATTENTION_KV_B: _attention_value,
    _Category.ATTENTION_V: _attention_value,
    _Category.ATTENTION_K: _attention_key,
    _Category.ATTENTION_OUTPUT: _attention_output,
    _Category.FFN_DOWN: _ffn_down,
}
