"""Loss and token accuracy on supervised tokens, row by row, in batches that fit into memory."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from fastft.data.conversation import IGNORE, Example
from fastft.data.store import Examples

if TYPE_CHECKING:
    import numpy as np
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

LOGITS_A_CHUNK = 512  # rows of logits that are float32 at once: 0.26 GB with a vocabulary of 128k


@dataclass(frozen=True, slots=True)
class Score:
    """Of one example: negative log-likelihoods of its supervised tokens summed (nats), how many there are, and how
    many of them are the model's likeliest token."""

    nats: float
    tokens: int
    right: int

    def __add__(self, other: Score) -> Score:
        return Score(self.nats + other.nats, self.tokens + other.tokens, self.right + other.right)


NOTHING = Score(0.0, 0, 0)


def scores(model: Any, examples: Sequence[Example], tokens_a_batch: int) -> Iterator[tuple[int, Score]]:
    """(index, score) of each example, shortest first; the model is put into evaluation mode.

    A batch holds at most `tokens_a_batch` tokens once padded (a longer example goes alone). Where memory is short all
    the same, the batch is halved.
    """
    model.eval()
    stored = Examples.of(examples)
    for batch in batches(stored.lengths(), tokens_a_batch):
        yield from whole_or_halved(batch, lambda part: _score_batch(model, [stored[index] for index in part]))


def batches(lengths: Sequence[int], tokens: int, most: int | None = None) -> Iterator[list[int]]:
    """Indices in order of length, so many at a time that none is more than `tokens` long once padded."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and ((len(batch) + 1) * lengths[index] > tokens or len(batch) == most):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def whole_or_halved(
    batch: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[Result]]
) -> Iterator[tuple[Item, Result]]:
    """(item, what `work` makes of it), all in one go; where memory is too short for that, half of them at a time."""
    from fastft.out_of_memory import give_back, ran_out_of_memory

    try:
        found = work(batch)
    except (RuntimeError, MemoryError) as error:
        if len(batch) == 1 or not ran_out_of_memory(error):
            raise
        give_back(error)
        found = None
    if found is not None:
        yield from zip(batch, found, strict=True)
        return
    give_back()
    middle = len(batch) // 2
    yield from whole_or_halved(batch[:middle], work)
    yield from whole_or_halved(batch[middle:], work)


def _score_batch(model: Any, batch: Sequence[Example]) -> list[Score]:
    import torch
    from torch.nn.functional import cross_entropy

    ids, mask, labels = (torch.tensor(rows).to(model.device) for rows in _padded(batch))
    targets = labels[:, 1:]
    with torch.no_grad():
        logits, kept = _logits(model, ids, mask, (targets != IGNORE).any(0))
        targets = targets[:, kept]
        nats = torch.zeros(len(batch), dtype=torch.float64)
        right = torch.zeros(len(batch), dtype=torch.int64)
        rows, columns = (targets != IGNORE).nonzero(as_tuple=True)
        for row, column in zip(rows.split(LOGITS_A_CHUNK), columns.split(LOGITS_A_CHUNK), strict=True):
            chunk, wanted = logits[row, column], targets[row, column]
            loss = cross_entropy(chunk.float(), wanted, reduction="none")
            nats.index_add_(0, row.cpu(), loss.double().cpu())
            right.index_add_(0, row.cpu(), (chunk.argmax(-1) == wanted).long().cpu())
    tokens = (labels[:, 1:] != IGNORE).sum(1).tolist()
    return [Score(*values) for values in zip(nats.tolist(), tokens, right.tolist(), strict=True)]


def _logits(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits at some positions, those positions): of the `wanted` ones alone where the model can leave out others."""
    import torch

    every = torch.arange(len(wanted), device=ids.device)
    if not _keeps_chosen_logits(model):
        return model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1], every
    kept = every[wanted]
    return model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=kept).logits, kept


def _keeps_chosen_logits(model: Any) -> bool:
    """Transformers' own models take positions there. Unsloth, which rewrites them once it is imported, a number."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "unsloth" in sys.modules or not type(inner).__module__.startswith("transformers."):
        return False
    return "logits_to_keep" in inspect.signature(type(inner).forward).parameters


def _padded(batch: Sequence[Example]) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    width = max(len(example.input_ids) for example in batch)
    ids, mask, labels = [], [], []
    for example in batch:
        room = width - len(example.input_ids)
        ids.append([*example.input_ids, *[0] * room])
        mask.append([1] * len(example.input_ids) + [0] * room)
        labels.append([*example.labels, *[IGNORE] * room])
    return ids, mask, labels


def score_of_rows(found: Iterator[tuple[int, np.ndarray]], labels: Sequence[int]) -> Score:
    """The score of one example, from pieces of its logits: (position of the first row, float32 [rows, vocabulary])."""
    import numpy as np

    total = NOTHING
    for start, rows in found:
        targets = np.array([*labels[start + 1 : start + 1 + len(rows)], IGNORE][: len(rows)])
        chosen = targets != IGNORE
        if not chosen.any():
            continue
        values, wanted = rows[chosen].astype(np.float64), targets[chosen]
        highest = values.max(-1, keepdims=True)
        log_sums = highest[:, 0] + np.log(np.exp(values - highest).sum(-1))
        nats = float((log_sums - values[np.arange(len(wanted)), wanted]).sum())
        total += Score(nats, len(wanted), int((values.argmax(-1) == wanted).sum()))
    return total
