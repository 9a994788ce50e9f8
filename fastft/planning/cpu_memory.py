"""The memory of a training step on the CPU: PyTorch's own operations, and the whole process counts."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from fastft.planning import constants as c
from fastft.planning.sizes import Shape

if TYPE_CHECKING:
    from fastft.planning.memory import Checkpointing, Loss, Memory
    from fastft.recipe.schema import LoraSection, ModelSection


def cpu_memory(
    shape: Shape,
    model: ModelSection,
    lora: LoraSection | None,
    *,
    optim: str,
    in_flight: int,
    checkpointing: Checkpointing,
    loss: Loss,
    cached: int,
    learned: int | None,
) -> Memory:
    """As `memory.plan_memory`; nothing is offloaded here, so "unsloth" keeps the layers' inputs as True does."""
    from fastft.planning import memory as m

    size = compute_bytes(model)
    layer = cpu_layer(shape, size, adapted=lora is not None)
    kept = (size * shape.hidden if checkpointing else layer) * shape.layers * in_flight
    live = layer * in_flight * ((1 if checkpointing else 0) + c.CPU_BACKWARD)
    logits = cpu_loss(shape, learned if learned is not None else in_flight, loss, size)
    later = max(0, m.cache_bytes(shape, cached) * size // 2 - kept - live)
    return m.Memory(
        weights=int(_weights(shape, model, size)),
        lora=m.learned_bytes(shape, lora),
        optimizer=int(m.state_bytes(shape, lora, optim, on_cpu=True)),
        activations=int(kept + live + later),
        cross_entropy=int(max(0, logits - live)),
        overhead=int(c.CPU_PROCESS + c.CPU_KERNELS + c.DEQUANTISED_AT_ONCE * size * shape.largest),
    )


def _weights(shape: Shape, model: ModelSection, size: int) -> float:
    """Weights that aren't quantised are in the type that is computed in, and 8 bits aren't to be had here."""
    from fastft.planning.memory import bytes_a_weight

    stored = bytes_a_weight(shape, model)
    quantised = (shape.linear - shape.kept) if stored < 1 else 0
    plain = 4 if model.full_finetuning else size
    return quantised * stored + (shape.parameters - quantised) * plain


def cpu_layer(shape: Shape, size: int, *, adapted: bool = True) -> int:
    """Bytes a token of what a layer keeps for its backward pass, computing in `size` bytes a value.

    Twice a norm's input and its normalised value in 32 bits, and its output; the inputs of the seven projections'
    updates in 32 bits (PEFT casts each anew, unless all is in 32 bits), or without LoRA their own inputs; queries,
    keys, values (repeated to the number of heads) and attention's output; gate, its activation and up.
    """
    wide, inner = shape.heads * shape.head_dim, shape.width
    if size == 4:
        return 24 * shape.hidden + 20 * wide + 16 * inner
    if not adapted:
        return 24 * shape.hidden + 10 * wide + 8 * inner
    return 40 * shape.hidden + 12 * wide + 10 * inner


def cpu_loss(shape: Shape, tokens: int, loss: Loss, size: int) -> int:
    """Logits of the tokens that are learned, their 32-bit copy and its gradient; in chunks where Unsloth makes them."""
    if loss == "score":
        return 0
    if loss == "full":
        return (size + 4 + 4) * tokens * shape.vocabulary
    elements = max(c.CPU_CHUNK_ELEMENTS, c.CPU_CHUNK_ROWS * shape.vocabulary)
    return c.CPU_BYTES_A_LOGIT * min(tokens * shape.vocabulary, elements)


def compute_bytes(model: ModelSection) -> int:
    """Bytes of a value: 2 where the CPU computes in bfloat16 (unsloth_zoo/cpu/runtime.py), else 4."""
    if model.dtype == "float32":
        return 4
    return 2 if model.dtype == "bfloat16" or _has_bfloat16() else 4


@functools.cache
def _has_bfloat16() -> bool:
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text(encoding="utf-8").split() if cpu.is_file() else ()
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))
