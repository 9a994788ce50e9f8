"""The audit in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastft.fastpath.batch import Batch
from fastft.fastpath.layers import Layers

_BITS = {"nf4": "NF4", "fp4": "FP4", "bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "int8": "8 bits"}


def summary(
    layers: Layers | None,
    batch: Batch | None,
    attention: str | None,
    unknown: Sequence[str] = (),
    *,
    learns_text: bool = True,
) -> str:
    """What is on: "7 of 7 layers with LoRA on NF4 · attention sdpa, 8 documents kept apart · …"."""
    learned_only = layers is not None and layers.learned_only and learns_text
    parts = [*_of_layers(layers), *_of_batch(batch, attention, learned_only, learns_text), *_of_recomputing(layers)]
    if unknown:
        parts.append(f"unknown: {', '.join(unknown)}")
    return " · ".join(parts) or "unknown"


def _of_layers(found: Layers | None) -> Iterator[str]:
    if found is None:
        return
    bits = _BITS.get(found.dtypes.get("base", ""), found.dtypes.get("base", ""))
    if found.adapted:
        yield f"{found.adapted} of {found.layers} layers with LoRA on {bits}"
    else:
        yield f"{found.layers} layers trained whole"
    if found.fused is not None and found.patched:
        kernels = ", ".join(f"{part} {count}" for part, count in found.fused.items())
        yield f"fused LoRA {kernels}"
        yield f"Unsloth's norms and RoPE in {found.patched}"


def _of_batch(batch: Batch | None, attention: str | None, learned_only: bool, learns_text: bool) -> Iterator[str]:
    if attention is not None:
        yield f"attention {attention}{_documents(batch)}"
    if batch is None:
        return
    if batch.labelled is None:
        return
    if batch.logits is None and not learned_only:
        yield "cross entropy in chunks" if learns_text else "logits in chunks"
    elif batch.logits is None or batch.logits < batch.tokens:
        yield "logits of learned tokens only"
    else:
        yield "logits of every token"


def _documents(batch: Batch | None) -> str:
    if batch is None:
        return ""
    if batch.apart:
        return f", {batch.documents} documents kept apart"
    return f", {batch.padded_share:.0%} of the batch is padding" if batch.padding else ", nothing padded"


def _of_recomputing(found: Layers | None) -> Iterator[str]:
    if found is None:
        return
    where = ", kept in the host's memory" if found.offloaded else ""
    yield f"recomputing {found.recomputed} of {found.layers} layers{where}" if found.recomputed else "no recomputation"
