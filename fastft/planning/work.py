"""What a training has to do, whatever it is done on: counts of the data that memory and time follow from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import pstdev
from typing import TYPE_CHECKING, Any

from fastft.planning.memory import Checkpointing, Loss

if TYPE_CHECKING:
    from fastft.data.packing import Packing
    from fastft.data.prepare import PreparedData
    from fastft.recipe.schema import Recipe
    from fastft.trainers.method import Method

_ANSWERED_AT_ONCE = 16384  # tokens of a batch while answers are written (fastft/evaluation.py)
_EVALUATED_AT_ONCE = 4096  # tokens of a batch while the loss is evaluated (fastft/evaluation.py)
# Methods whose trainers in TRL make all logits at once; the others' losses go over the last hidden states in chunks.
_FULL_LOGITS = ("orpo", "cpo", "kto")


@dataclass(frozen=True, slots=True)
class Work:
    """Counts of a training. Lengths are in tokens; a pair of positions is one that attends to another, S·(S+1)/2 of a
    document of S tokens."""

    documents: int
    sequences: int  # what the documents are fed as: packs, or themselves
    tokens: int  # of one epoch, without padding
    supervised: int
    longest: int
    pairs: int
    width: int = 1  # sequences that are computed for one that is fed: a preference pair is two
    packing_efficiency: float | None = None
    spread: float | None = None  # of the lengths, where a batch's documents lie end to end without padding
    loss: Loss = "chunked"
    reference: bool = False  # a frozen model judges the same rows
    written: int = 0  # most tokens the model writes itself for a prompt while it trains
    held_out: int = 0  # tokens of the held-out rows
    longest_held_out: int = 0
    answers: int = 0  # prompts answered before and after training
    answer_tokens: int = 0

    def in_flight(self, batch: int) -> int:
        """Tokens of the largest of all micro-batches of so many sequences.

        Without padding it is a sum of lengths drawn at random: no more than four deviations above its mean.
        """
        most = batch * self.longest * self.width
        if self.spread is None or not self.sequences:
            return most
        mean = self.tokens / self.sequences
        return min(most, max(self.longest, round(mean * batch + 4 * self.spread * math.sqrt(batch))))

    @property
    def learned_share(self) -> float:
        return self.supervised / self.tokens if self.tokens else 1.0

    @property
    def evaluated_at_once(self) -> int:
        """Tokens of the largest batch of the evaluation."""
        return min(self.held_out, max(_EVALUATED_AT_ONCE, self.longest_held_out))

    def cached(self, arguments: Mapping[str, Any]) -> int:
        """Tokens in the KV cache at most: answers of the evaluation, or those that are rewarded."""
        each = self.longest_held_out + self.answer_tokens
        asked = min(self.answers * each, max(_ANSWERED_AT_ONCE, each))
        if not self.written:
            return asked
        from fastft.trainers.groups import generation_batch

        return max(asked, generation_batch(arguments) * self.longest)


def work_of(
    data: PreparedData, method: Method, recipe: Recipe, arguments: Mapping[str, Any], packs: Packing | None
) -> Work:
    """The work of prepared data."""
    lengths, held_out = data.train.lengths(), data.evaluation.lengths()
    written = int(arguments.get("max_completion_length") or 0) if method.generates else 0
    answers = min(recipe.evaluation.samples, len(data.evaluation_conversations)) if method.kind == "conversation" else 0
    documents = len(data.train) // method.sequences
    return Work(
        documents=documents,
        sequences=packs.sequences if packs else documents,
        tokens=sum(lengths),
        supervised=data.audit.train.supervised,
        longest=max(packs.lengths) if packs else max(lengths) + written,
        pairs=pairs_of(lengths),
        width=method.sequences,
        packing_efficiency=packs.efficiency if packs else None,
        spread=pstdev(lengths) if not packs and _end_to_end(method, arguments) else None,
        loss="score" if method.classifies else "full" if method.name in _FULL_LOGITS else "chunked",
        reference=_has_reference(method, arguments),
        written=written,
        held_out=sum(held_out),
        longest_held_out=max(held_out, default=0),
        answers=0 if method.classifies else answers + len(recipe.evaluation.prompts),
        answer_tokens=recipe.evaluation.max_new_tokens,
    )


def _end_to_end(method: Method, arguments: Mapping[str, Any]) -> bool:
    """Whether the documents of a batch lie end to end: conversations and texts, unless a model type can't have it."""
    grouped = arguments.get("train_sampling_strategy") == "group_by_length"
    return method.kind == "conversation" and not grouped and arguments.get("padding_free") is not False


def pairs_of(lengths: Sequence[int]) -> int:
    return sum(length * (length + 1) // 2 for length in lengths)


def _has_reference(method: Method, arguments: Mapping[str, Any]) -> bool:
    """DPO and KTO compare with the model as it was; GRPO and RLOO do where beta is above 0."""
    if method.generates:
        return float(arguments.get("beta") or 0) > 0
    return method.name in ("dpo", "kto") and not arguments.get("precompute_ref_log_probs")


def checkpointing_of(recipe: Recipe, arguments: Mapping[str, Any]) -> Checkpointing:
    """How activations are kept: as the LoRA section says; where it leaves the choice, and without one, as `arguments`
    say it for the whole model, in Unsloth's way."""
    said = arguments.get("gradient_checkpointing")
    asked = recipe.lora.use_gradient_checkpointing if recipe.lora is not None else "auto"
    if asked != "auto":
        return asked if said is not False else False
    return "unsloth" if said is None or said else False
