"""Floating-point operations of a training step, counted from the tokens that were really fed.

With N_l the parameters of the layers' projections, N_h those of the head, and a(S) = 2·L·H·D·S·(S+1) the attention of
a document of S tokens (L layers, H heads of D; scores and their sum with the values, causal: S·(S+1)/2 pairs at 4·H·D
operations a layer), a step takes

- frozen base (LoRA, QLoRA):  4·(N_l + N_h) a token and 3·a a document: forward, and backward to the inputs
- full fine-tuning:           6·(N_l + N_h) a token and 3·a a document: backward to the weights as well
- recomputing activations:    2·N_l a token and a a document more, for the share of layers that does it
- a reference's forward:      2·(N_l + N_h) a token and a a document more (DPO, KTO)

Of a mixture's experts those count that a token passes; a sliding window is counted as if it saw everything. The
adapter's own products, norms and the softmax are left out: below 1 % of it. Recomputing counts as work, because the
card does it: the share of the datasheet's rate is what the card achieved, not what the method needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


class Sizes(Protocol):
    """What of a decoder's shape the formula needs; `fastft.planning.shape.Shape` has it."""

    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def head(self) -> int: ...
    @property
    def computed(self) -> int: ...


@dataclass(frozen=True, slots=True)
class StepCost:
    """Operations a real token, and a pair of positions that attend (S·(S+1)/2 of a document of S tokens)."""

    per_token: float
    per_pair: float

    def of(self, tokens: int, pairs: int) -> float:
        return self.per_token * tokens + self.per_pair * pairs


def step_cost(
    shape: Sizes, *, frozen: bool, recomputed: float = 0.0, reference: bool = False, scores: bool = False
) -> StepCost:
    """The cost of a training step. `recomputed` is the share of layers that recompute their activations.

    With `scores` the model has one score as its output in place of the language head (reward models).
    """
    layers, head = shape.computed, 0 if scores else shape.head
    pair = 4.0 * shape.layers * shape.heads * shape.head_dim
    passes = 4 if frozen else 6
    per_token = passes * (layers + head) + recomputed * 2 * layers + (2 * (layers + head) if reference else 0)
    return StepCost(float(per_token), pair * (3 + recomputed + (1 if reference else 0)))


def recomputed_share(model: Any) -> float:
    """The share of a loaded model's layers that recompute their activations in the backward pass, as they are set."""
    flags = [bool(m.gradient_checkpointing) for m in model.modules() if hasattr(m, "gradient_checkpointing")]
    layers = [
        bool(m.gradient_checkpointing)
        for m in model.modules()
        if any(base.__name__ == "GradientCheckpointingLayer" for base in type(m).__mro__)
    ]
    counted = layers if any(layers) else flags
    return sum(counted) / len(counted) if counted else 0.0
