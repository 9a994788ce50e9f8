"""What the model's forward was really given and gave back: tokens, padding, documents kept apart, logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_IGNORE = -100


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch. `logits` are the places whose logits were made, None where they never were all at once."""

    sequences: int
    tokens: int  # with padding
    padding: int
    documents: int
    apart: bool  # documents of one sequence don't see each other
    labelled: int | None  # tokens with a label, None where the trainer computes the loss itself
    masked: bool  # a padding mask was passed
    logits: int | None
    vocabulary: int

    @property
    def padded_share(self) -> float:
        return self.padding / max(1, self.tokens)


def read_batch(given: Mapping[str, Any], output: Any, vocabulary: int) -> Batch | None:
    """The batch of a forward call's keyword arguments and its output, or None where there are no ids in them."""
    ids = given.get("input_ids")
    if ids is None:
        return None
    mask, positions, labels = (given.get(name) for name in ("attention_mask", "position_ids", "labels"))
    lengths = given.get("packed_seq_lengths")
    flat = getattr(mask, "dim", lambda: 0)() == 2
    starts = int((positions == 0).sum()) if positions is not None else len(lengths) if lengths is not None else 0
    labels = given.get("shift_labels") if labels is None else labels
    return Batch(
        sequences=ids.shape[0],
        tokens=ids.numel(),
        padding=int((mask == 0).sum()) if mask is not None and flat else 0,
        documents=max(starts if mask is None else 0, ids.shape[0]),
        apart=mask is None and starts > 0,
        labelled=int((labels != _IGNORE).sum()) if labels is not None else None,
        masked=mask is not None,
        logits=_places(output),
        vocabulary=vocabulary,
    )


def _places(output: Any) -> int | None:
    """Places of the logits in a model's output; Unsloth's fused loss gives an object without a shape."""
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    shape = getattr(logits, "shape", None) if type(logits).__name__ != "EmptyLogits" else None
    if shape is None or len(shape) < 2:
        return None
    places = 1
    for size in shape[:-1]:
        places *= int(size)
    return places
