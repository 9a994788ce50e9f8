"""What a recipe will take: parameters, steps, memory. Arithmetic on config.json; nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.model_files import read_text_config
from fastft.trainers.defaults import steps_of

if TYPE_CHECKING:
    from fastft.recipe.schema import LoraSection, ModelSection

_NF4_BYTES = 0.516  # a weight: 4 bits, and its share of the double-quantised block constants
_CHUNK_OF_LOGITS = 2 << 30  # Unsloth's chunked cross entropy stays below this
_GPU_OVERHEAD = 1.4e9  # CUDA context and allocator; see docs/design.md for the source of each constant
_CPU_OVERHEAD = 2.0e9  # imported 0.95 GB, and buffers of training and generating: the quickstart peaks at 2.1 GB


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder that memory and time follow from."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    experts: int = 1

    @property
    def linear(self) -> int:
        """Parameters of the layers' projections: what 4-bit loading quantises."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate * self.experts)

    @property
    def embedding(self) -> int:
        """Parameters of the embedding and, where it is not tied to it, the head."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        return self.linear + self.embedding + self.hidden * (2 * self.layers + 1)

    def lora(self, r: int) -> int:
        """Adapter parameters at rank `r` on every projection."""
        wide, narrow = self.head_dim * self.heads, self.head_dim * self.kv_heads
        attention = 2 * (self.hidden + wide) + 2 * (self.hidden + narrow)
        return r * self.layers * (attention + 3 * (self.hidden + self.intermediate))


@dataclass(frozen=True, slots=True)
class Plan:
    """Counts, steps and bytes of a run. `memory` is the estimated peak on the device that trains."""

    parameters: int
    trainable: int
    tokens: int
    sequences: int
    steps: int
    memory: int
    packing_efficiency: float | None = None  # share of the packs' positions that hold a token

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_shape(folder: Path) -> Shape | None:
    """The shape told by config.json, or None for a model whose configuration says it in other words."""
    config = read_text_config(folder)
    try:
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        return Shape(
            hidden=hidden,
            intermediate=int(config.get("moe_intermediate_size") or config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            experts=int(config.get("num_experts") or config.get("num_local_experts") or 1),
        )
    except (KeyError, TypeError, ValueError):
        return None


def make_plan(
    shape: Shape | None,
    model: ModelSection,
    lora: LoraSection | None,
    arguments: Mapping[str, Any],
    *,
    sequences: int,
    tokens: int,
    longest: int,
    on_cpu: bool,
    width: int = 1,
) -> Plan:
    """The plan for `sequences` examples (or packs) holding `tokens` tokens, the longest of `longest` tokens.

    `width` is how many sequences the model computes for one of them: a preference pair is two.
    """
    steps = steps_of({"num_train_epochs": 1, **arguments}, sequences)
    if shape is None:
        return Plan(0, 0, tokens, sequences, steps, 0)
    trainable = shape.lora(lora.r) if lora is not None else shape.parameters
    in_flight = arguments["per_device_train_batch_size"] * longest * width
    memory = _memory(shape, model, trainable, in_flight, lora, on_cpu)
    return Plan(shape.parameters, trainable, tokens, sequences, steps, memory)


def _memory(
    shape: Shape, model: ModelSection, trainable: int, in_flight: int, lora: LoraSection | None, on_cpu: bool
) -> int:
    """Peak bytes: weights, trained weights with gradients and Adam's moments, activations, logits, overhead."""
    four_bit = model.load_in_4bit and not model.full_finetuning and not model.load_in_16bit
    weights = shape.linear * (_NF4_BYTES if four_bit else 2) + 2 * shape.embedding
    states = 16 * trainable if lora is not None else 14 * trainable
    live_layer = in_flight * (
        2 * (4 * shape.hidden + 2 * shape.head_dim * (shape.heads + shape.kv_heads) + 2 * shape.intermediate)
        + 4 * shape.heads
    )
    recomputed = lora is None or lora.use_gradient_checkpointing
    activations = 2 * shape.hidden * shape.layers * in_flight + live_layer * (1 if recomputed else shape.layers)
    logits = min(_CHUNK_OF_LOGITS, 8 * in_flight * shape.vocabulary)
    total = weights + states + activations + logits
    return int(total + _CPU_OVERHEAD if on_cpu else total * (1 + 1 / 16) + _GPU_OVERHEAD)
