"""Small random GGUF files of several architectures, written straight with gguf-py, for the tests of the quantiser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_ROWS = 8  # llama-quantize looks at the row length only, so the files can be small


@dataclass(frozen=True)
class Shape:
    """A model in outline. `ffn` and `width` decide which K-quants fit; `layers` and heads which mixture is chosen."""

    architecture: str = "llama"
    layers: int = 2
    width: int = 256
    ffn: int = 512
    heads: int = 4
    kv_heads: int = 2
    experts: int = 0
    vocabulary: int = 64
    tied: bool = False
    fused_qkv: bool = False
    dtype: str = "bf16"


# Each reaches other branches of llama-quantize's choice of types.
SHAPES = {
    "llama, 12 layers, for the mixtures": Shape(layers=12),
    "llama, tensors of several chunks": Shape(layers=1, width=1024, ffn=1024, vocabulary=2500),
    "llama, tied": Shape(layers=3, tied=True),
    "llama from f16": Shape(dtype="f16"),
    "llama from f32": Shape(dtype="f32"),
    "llama, feed-forward rows of 352": Shape(layers=9, ffn=352),
    "llama, rows of 288, tied": Shape(width=288, ffn=544, heads=2, kv_heads=1, tied=True),
    "llama, feed-forward rows of 80": Shape(ffn=80),
    "llama 70B: 80 layers, 8 heads a key": Shape(layers=80, heads=8, kv_heads=1, ffn=256),
    "llama 65B: 80 layers, no grouping": Shape(layers=80, heads=4, kv_heads=4, ffn=256),
    "qwen2, 17 layers, 7 heads a key, tied": Shape("qwen2", layers=17, width=512, heads=8, kv_heads=1, tied=True),
    "qwen2 72B: 80 layers": Shape("qwen2", layers=80, heads=8, kv_heads=1, ffn=256),
    "falcon, fused qkv, 33 layers": Shape("falcon", layers=33, fused_qkv=True, kv_heads=1),
    "phi3, fused qkv": Shape("phi3", layers=9, fused_qkv=True, kv_heads=4),
    "mixtral: 8 experts": Shape(layers=9, experts=8, ffn=256),
    "qwen3moe: 4 experts": Shape("qwen3moe", layers=10, experts=4, ffn=256),
}


def write_gguf(path: Path, shape: Shape, seed: int = 0) -> None:
    """A file llama-quantize accepts, with normally distributed weights (one expert of all zeros among them)."""
    from fastft.exporters.converter import import_llama_cpp

    gguf = import_llama_cpp("gguf")
    writer = gguf.GGUFWriter(path, shape.architecture)
    _metadata(writer, shape)
    random = np.random.default_rng(seed)
    kind = {"f16": gguf.GGMLQuantizationType.F16, "bf16": gguf.GGMLQuantizationType.BF16}.get(shape.dtype)
    for name, dimensions in _tensors(shape):
        values = random.standard_normal(dimensions, dtype=np.float32) * np.float32(0.05)
        if name.endswith("exps.weight"):
            values[0] = 0
        if kind is None or len(dimensions) == 1 or "ffn_gate_inp" in name:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _metadata(writer: Any, shape: Shape) -> None:
    writer.add_name("random")
    writer.add_block_count(shape.layers)
    writer.add_context_length(128)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(shape.vocabulary)
    writer.add_array("tokenizer.ggml.tokens", ["a", "ü", ""])  # a key-value pair that has to survive as it is
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(shape.ffn)


def _tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "token_embd.weight", (shape.vocabulary, shape.width)
    for layer in range(shape.layers):
        for name, dimensions in _layer(shape):
            yield f"blk.{layer}.{name}", dimensions
    yield "output_norm.weight", (shape.width,)
    if not shape.tied:
        yield "output.weight", (shape.vocabulary, shape.width)


def _layer(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, ffn, rows = shape.width, shape.ffn, _ROWS
    yield "attn_norm.weight", (width,)
    for name in ("attn_qkv",) if shape.fused_qkv else ("attn_q", "attn_k", "attn_v"):
        yield f"{name}.weight", (rows, width)
    yield "attn_q.bias", (width,)
    yield "attn_output.weight", (rows, width)
    yield "ffn_norm.weight", (width,)
    if shape.experts:
        yield "ffn_gate_inp.weight", (shape.experts, width)
    stacked, exps = ((shape.experts,), "_exps") if shape.experts else ((), "")
    yield f"ffn_gate{exps}.weight", (*stacked, rows, width)
    yield f"ffn_up{exps}.weight", (*stacked, rows, width)
    yield f"ffn_down{exps}.weight", (*stacked, rows, ffn)
