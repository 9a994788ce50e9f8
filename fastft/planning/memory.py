"""The memory a training step takes at its peak, by part. Arithmetic on a Shape; docs/plan.md has sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

from fastft.planning import constants as c
from fastft.planning.sizes import NF4_BYTES, Shape, trained_whole

if TYPE_CHECKING:
    from fastft.recipe.schema import LoraSection, ModelSection

Checkpointing = bool | Literal["unsloth"]
Loss = Literal["chunked", "full", "score"]

# Bytes of state a trained parameter, by transformers' names; what isn't here keeps two moments in 32 bits.
_STATES: dict[str, float] = {
    "adamw_8bit": 2, "adamw_bnb_8bit": 2, "adamw_torch_8bit": 2, "adamw_torch_4bit": 1, "adafactor": 0.25, "sgd": 0,
    "adagrad": 4, "lion_32bit": 4, "lion_8bit": 1, "rmsprop": 4, "rmsprop_bnb": 4, "rmsprop_bnb_32bit": 4,
    "rmsprop_bnb_8bit": 1, "ademamix": 12, "ademamix_8bit": 3, "grokadamw": 12, "schedule_free_sgd": 4, "lomo": 0,
    # paged: moved to the host where the card is full
    "paged_adamw_32bit": 0, "paged_adamw_8bit": 0, "paged_lion_32bit": 0, "paged_lion_8bit": 0,
    "paged_ademamix_32bit": 0, "paged_ademamix_8bit": 0,
}  # fmt: skip
_PAGED: dict[str, float] = {"paged_adamw_32bit": 8, "paged_adamw_8bit": 2, "paged_lion_32bit": 4, "paged_lion_8bit": 1,
          "paged_ademamix_32bit": 12, "paged_ademamix_8bit": 3}  # fmt: skip
_TWO_MOMENTS = 8


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at the peak of a training step, by part.

    `cross_entropy` is what the loss takes beyond the room that the backward pass uses after it; `lora` are the trained
    weights and their gradients (all weights, without LoRA).
    """

    weights: int
    lora: int
    optimizer: int
    activations: int
    cross_entropy: int
    overhead: int

    @property
    def total(self) -> int:
        return self.weights + self.lora + self.optimizer + self.activations + self.cross_entropy + self.overhead

    def as_dict(self) -> dict[str, int]:
        return asdict(self) | {"total": self.total}


def plan_memory(
    shape: Shape,
    model: ModelSection,
    lora: LoraSection | None,
    *,
    optim: str,
    in_flight: int,
    longest: int,  # noqa: ARG001 -- no kernel in use takes memory by the square of the length
    checkpointing: Checkpointing,
    on_cpu: bool,
    loss: Loss = "chunked",
    cached: int = 0,
    evaluated: int = 0,
    learned: int | None = None,
    reference: bool = False,
) -> Memory:
    """The peak of a step with `in_flight` tokens in a micro-batch whose sequences have at most `longest`.

    `loss` is how logits are made: "chunked" (Unsloth's, of at most 2 GiB), all of them at once ("full"), or one number
    a sequence ("score"). `cached` tokens stand in the KV cache while the model writes answers, `evaluated` tokens in a
    batch of the evaluation. `learned` is how many of the tokens in flight are supervised (None: all). With `reference`
    the model as it was judges the same rows: a copy where everything is trained, else the model without its adapter.
    """
    from fastft.planning.cpu_memory import cpu_memory

    copied = plain_bytes(model) * shape.parameters if reference and lora is None else 0
    if on_cpu:
        memory = cpu_memory(shape, model, lora, optim=optim, in_flight=in_flight, checkpointing=checkpointing,
                            loss=loss, cached=cached, learned=learned)  # fmt: skip
        return replace(memory, weights=memory.weights + copied)
    kept = kept_activations(shape, checkpointing) * in_flight
    live = (live_layer(shape, checkpointing) + beside_layer(shape)) * in_flight
    hidden = 2 * shape.hidden * c.VECTORS_BESIDE_LAYER // 2 * in_flight
    logits = loss_bytes(shape, in_flight, loss)
    later = max(
        0,
        cache_bytes(shape, cached) - live - kept,
        forward_bytes(shape, evaluated) - live - kept,
    )
    activations = kept + live + later
    return _rounded(
        weights=weight_bytes(shape, model) + copied,
        lora=learned_bytes(shape, lora),
        optimizer=state_bytes(shape, lora, optim),
        activations=activations,
        cross_entropy=max(0, hidden + logits - live - later),
        dequantised=_dequantised(shape, model),
    )


def _rounded(
    *, weights: float, lora: float, optimizer: float, activations: float, cross_entropy: float, dequantised: float
) -> Memory:
    """With what CUDA and torch's allocator take on top."""
    moving = lora + optimizer + activations + cross_entropy
    overhead = c.GPU_CONTEXT + c.GPU_ROUNDING + dequantised + c.FRAGMENTATION * moving
    return Memory(int(weights), int(lora), int(optimizer), int(activations), int(cross_entropy), int(overhead))


def bytes_a_weight(shape: Shape, model: ModelSection) -> float:
    """Bytes a weight of the projections as loaded."""
    if model.full_finetuning:
        return 4  # every trainable weight is kept in float32: backend.keep_adapter_in_fp32
    if shape.stored and not model.load_in_16bit:
        return shape.stored
    if model.load_in_4bit:
        return NF4_BYTES
    return 1 if model.load_in_8bit else plain_bytes(model)


def plain_bytes(model: ModelSection) -> int:
    """Bytes a weight that isn't quantised."""
    return 4 if model.dtype == "float32" else 2


def weight_bytes(shape: Shape, model: ModelSection) -> float:
    """The weights as loaded: embeddings, head and norms are never quantised."""
    if model.full_finetuning:
        return 4 * shape.parameters
    quantised = shape.linear - shape.kept
    plain = shape.parameters - quantised
    return quantised * bytes_a_weight(shape, model) + plain * plain_bytes(model)


def trained_parameters(shape: Shape, lora: LoraSection | None) -> int:
    """Parameters that get a gradient: the updates, with what is trained whole beside them, or everything."""
    if lora is None:
        return shape.parameters
    return shape.lora(lora.r, lora.target_modules, lora.layers_to_transform) + trained_whole(shape, lora)


def learned_bytes(shape: Shape, lora: LoraSection | None) -> int:
    """Updates and gradients in 32 bits; where everything is trained the gradients alone: the weights are counted."""
    return (8 if lora is not None else 4) * trained_parameters(shape, lora)


def state_bytes(shape: Shape, lora: LoraSection | None, optim: str, *, on_cpu: bool = False) -> float:
    """The optimiser's state. Embeddings keep 32 bits in 8-bit optimisers (transformers' Trainer registers them so)."""
    each = _STATES.get(optim, _TWO_MOMENTS)
    if on_cpu and optim in _PAGED:
        each = _PAGED[optim]
    trained = trained_parameters(shape, lora)
    whole = trained_whole(shape, lora) if lora is not None else shape.embedding
    if "8bit" in optim and not optim.startswith("paged") and whole:
        return each * (trained - whole) + 4 * each * whole
    return each * trained


def saved_layer(shape: Shape) -> int:
    """Bytes a token of what one layer keeps for its backward pass, in 16 bits.

    Norms' and projections' inputs and outputs: 4 of hidden size, queries and attention's output, keys and values, gate
    and up; and attention's 32-bit normaliser of each head. With experts each active one has its own copy of the input.
    """
    wide, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    inner = (2 if shape.gated else 1) * shape.width
    routed = 2 * shape.active * shape.hidden if shape.moe else 0
    return 2 * (4 * shape.hidden + 2 * wide + 2 * narrow + inner + routed) + 4 * shape.heads


def kept_activations(shape: Shape, checkpointing: Checkpointing) -> int:
    """Bytes a token kept from the forward to the backward pass: all layers', only their inputs, or nothing, where
    these are moved to the host ("unsloth")."""
    if checkpointing == "unsloth":
        return 0
    return 2 * shape.hidden * shape.layers if checkpointing else saved_layer(shape) * shape.layers


def live_layer(shape: Shape, checkpointing: Checkpointing) -> int:
    """Bytes a token of the layer that is recomputed, if layers are."""
    return saved_layer(shape) if checkpointing else 0


def beside_layer(shape: Shape) -> int:
    """Bytes a token of what a layer's backward pass makes: the gradient of the MLP's inner activation (those of gate
    and up are written over them, see LoRA_MLP in unsloth/kernels/fast_lora.py), and vectors of hidden size."""
    return 2 * (shape.width + c.VECTORS_BESIDE_LAYER * shape.hidden)


def loss_bytes(shape: Shape, tokens: int, loss: Loss) -> int:
    """What the loss takes at its peak."""
    if loss == "score":
        return 0
    if loss == "full":
        return sum(full_logits(shape, tokens))
    rows = min(tokens, max(c.CHUNK_ROWS, -(-tokens // c.CHUNK_PARTS)))
    return min(c.CHUNK_CAP, c.CHUNK_BYTES_A_LOGIT * rows * shape.vocabulary)


def full_logits(shape: Shape, tokens: int) -> tuple[int, int, int]:
    """Bytes of all logits in 16 bits, in 32 bits, and of their gradient in 32 bits."""
    first, second, third = (each * tokens * shape.vocabulary for each in c.LOGIT_BYTES)
    return first, second, third


def cache_bytes(shape: Shape, tokens: int) -> int:
    """Keys and values of `tokens` tokens in 16 bits, and the logits of a step are little."""
    width = shape.latent[1] + shape.latent[2] if any(shape.latent) else 2 * shape.kv_heads * shape.head_dim
    return 2 * width * shape.layers * tokens


def forward_bytes(shape: Shape, tokens: int) -> int:
    """A batch of the evaluation: one layer at a time, and the loss in chunks."""
    return (saved_layer(shape) + 4 * shape.hidden) * tokens + (loss_bytes(shape, tokens, "chunked") if tokens else 0)


def _dequantised(shape: Shape, model: ModelSection) -> int:
    quantised = bytes_a_weight(shape, model) < 2
    return c.DEQUANTISED_AT_ONCE * 2 * shape.largest if quantised else 0


def largest_in_flight(memory_of: Callable[[int], Memory], room: int, most: int = 1 << 24) -> int:
    """The most tokens in flight whose plan is within `room` bytes, 0 if not even one is; `memory_of` plans a number.

    Bisection: a plan never shrinks as tokens are added.
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if memory_of(middle).total <= room else (low, middle - 1)
    return low
