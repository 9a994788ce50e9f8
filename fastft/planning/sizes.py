"""The sizes of a decoder that memory and time follow from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fastft.recipe.schema import LoraSection

# NF4 in blocks of 64 weights; their constants are stored in 8 bits, in blocks of 256 of 32 bits (arXiv:2305.14314, 3).
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8


class Linear(NamedTuple):
    """A projection as it stands in a layer: its name, and the sizes of what it takes and gives."""

    name: str
    inputs: int
    outputs: int
    copies: int = 1  # one for each expert
    dense: bool | None = None  # only in layers with (True) or without (False) a plain MLP, None: in all

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs * self.copies


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder. `intermediate` is that of one expert where there are several."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    experts: int = 1
    active: int = 1  # experts that a token passes
    shared: int = 0  # width of the MLP that every token passes beside its experts
    dense_layers: int = 0  # layers with a plain MLP, in a model whose others have experts
    dense_intermediate: int = 0
    gated: bool = True  # the MLP has gate and up, else only up
    attention: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")  # two: q, k and v are one, then the output
    mlp: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")  # two: gate and up are one, or there is no gate
    latent: tuple[int, int, int, int] = (0, 0, 0, 0)  # DeepSeek's: ranks of q and kv, rotated and value dimensions
    further: int = 0  # parameters beside the decoder: towers for images and sound, embeddings of each layer
    window: int = 0  # tokens back that attention sees in `windowed` layers
    windowed: int = 0
    stored: float = 0.0  # bytes a weight of the projections in a repository that is quantised already, 0: it isn't
    kept: int = 0  # parameters of projections that such a repository leaves in 16 bits

    @property
    def moe(self) -> bool:
        return self.experts > 1

    def linears(self) -> tuple[Linear, ...]:
        """The projections of a layer, those of both kinds where layers differ."""
        return (*self._attention(), *self._mlp())

    def _attention(self) -> Iterator[Linear]:
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        if any(self.latent):
            yield from self._latent_attention()
        elif len(self.attention) == 2:
            joined, out = self.attention
            yield Linear(f"self_attn.{joined}", self.hidden, wide + 2 * narrow)
            yield Linear(f"self_attn.{out}", wide, self.hidden)
        else:
            q, k, v, out = self.attention
            yield Linear(f"self_attn.{q}", self.hidden, wide)
            yield Linear(f"self_attn.{k}", self.hidden, narrow)
            yield Linear(f"self_attn.{v}", self.hidden, narrow)
            yield Linear(f"self_attn.{out}", wide, self.hidden)

    def _latent_attention(self) -> Iterator[Linear]:
        """DeepSeek's latent attention (transformers' modeling_deepseek_v3.py); head_dim is without rotation."""
        rank_q, rank_kv, rotated, value = self.latent
        query = self.heads * (self.head_dim + rotated)
        if rank_q:
            yield Linear("self_attn.q_a_proj", self.hidden, rank_q)
            yield Linear("self_attn.q_b_proj", rank_q, query)
        else:
            yield Linear("self_attn.q_proj", self.hidden, query)
        yield Linear("self_attn.kv_a_proj_with_mqa", self.hidden, rank_kv + rotated)
        yield Linear("self_attn.kv_b_proj", rank_kv, self.heads * (self.head_dim + value))
        yield Linear("self_attn.o_proj", self.heads * value, self.hidden)

    def _mlp(self) -> Iterator[Linear]:
        if not self.moe:
            yield from self._plain("mlp", self.intermediate, None)
            return
        # transformers 5 keeps the experts' gate and up as one parameter, and Unsloth's LoRA is put on that
        gates = 2 if self.gated else 1
        yield Linear("mlp.experts.gate_up_proj", self.hidden, gates * self.intermediate, self.experts, False)
        yield Linear("mlp.experts.down_proj", self.intermediate, self.hidden, self.experts, False)
        if self.shared:
            yield from self._plain("mlp.shared_expert", self.shared, False)
        if self.dense_layers:
            yield from self._plain("mlp", self.dense_intermediate, True)

    def _plain(self, where: str, width: int, dense: bool | None) -> Iterator[Linear]:
        *ups, down = self.mlp
        joined = 2 if self.gated and len(ups) == 1 else 1
        for up in ups:
            yield Linear(f"{where}.{up}", self.hidden, joined * width, 1, dense)
        yield Linear(f"{where}.{down}", width, self.hidden, 1, dense)

    def count(self, linear: Linear) -> int:
        """In how many layers a projection stands."""
        if linear.dense is None:
            return self.layers
        return self.dense_layers if linear.dense else self.layers - self.dense_layers

    @property
    def linear(self) -> int:
        """Parameters of the layers' projections: what 4-bit loading quantises."""
        return sum(self.count(linear) * linear.weights for linear in self.linears())

    @property
    def computed(self) -> int:
        """Parameters of the layers' projections that a token passes: of the experts, only the active ones."""
        used = (self.count(one) * one.weights * (self.active / one.copies if one.copies > 1 else 1)
                for one in self.linears())  # fmt: skip
        return round(sum(used))

    @property
    def head(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def embedding(self) -> int:
        """Parameters of the embedding and, where it is not tied to it, the head."""
        return self.head * (1 if self.tied else 2)

    @property
    def small(self) -> int:
        """Norms, and the routers of experts: what is never quantised and hardly counts."""
        return self.hidden * (2 * self.layers + 1) + self.layers * self.hidden * (self.experts if self.moe else 0)

    @property
    def parameters(self) -> int:
        return self.linear + self.embedding + self.small + self.further

    @property
    def largest(self) -> int:
        """Parameters of the largest projection (of one expert): what is dequantised at a time."""
        return max((linear.inputs * linear.outputs for linear in self.linears()), default=0)

    @property
    def width(self) -> int:
        """Values of the MLP's inner activation for a token, over the experts it passes."""
        return self.intermediate * self.active + self.shared if self.moe else self.intermediate

    def lora(self, r: int, targets: str | Sequence[str] = "auto", only: Sequence[int] | None = None) -> int:
        """Adapter parameters at rank `r` on the projections that `targets` names, in all layers or `only` some."""
        return sum(r * (one.inputs + one.outputs) * one.copies * len(layers) for one, layers in self.hit(targets, only))

    def hit(self, targets: str | Sequence[str], only: Sequence[int] | None) -> Iterator[tuple[Linear, list[int]]]:
        """Each projection that gets an update, and the layers in which it does. PEFT's rules: a text is a regular
        expression for the whole name, names of a list are its last part or parts."""
        for linear in self.linears():
            layers = [layer for layer in self._layers(linear) if only is None or layer in only]
            if not isinstance(targets, str):
                layers = layers if _named(linear.name, targets) else []
            elif targets not in ("auto", "all-linear"):
                layers = [layer for layer in layers if _matches(linear, layer, targets)]
            if layers:
                yield linear, layers

    def _layers(self, linear: Linear) -> range:
        """Plain MLPs come first where there are both kinds."""
        if linear.dense is None:
            return range(self.layers)
        return range(self.dense_layers) if linear.dense else range(self.dense_layers, self.layers)


def trained_whole(shape: Shape, lora: LoraSection) -> int:
    """Parameters of `modules_to_save`: embedding and head; what else is named is small, or a projection."""
    whole = 0
    for name in lora.modules_to_save or ():
        last = name.rpartition(".")[2]
        if last in ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out"):
            whole += shape.head
        else:
            whole += sum(shape.count(one) * one.weights for one in shape.linears() if one.name.endswith(last))
    return whole


def _named(name: str, targets: Sequence[str]) -> bool:
    """Experts' gate and up are one parameter, which Unsloth takes where either is named."""
    said = {target.rpartition(".")[2] for target in targets}
    if name.endswith("experts.gate_up_proj") and said & {"gate_proj", "up_proj"}:
        return True
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _matches(linear: Linear, layer: int, pattern: str) -> bool:
    names = [linear.name]
    if linear.name.endswith("experts.gate_up_proj"):
        names += [linear.name.replace("gate_up_proj", part) for part in ("gate_proj", "up_proj")]
    wrappers = ("model.layers", "model.language_model.layers", "language_model.model.layers")
    return any(re.fullmatch(pattern, f"{wrapper}.{layer}.{name}") for wrapper in wrappers for name in names)
