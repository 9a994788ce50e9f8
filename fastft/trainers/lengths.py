"""Batches of rows of similar lengths, where batches are padded: in an order that a resumed run sees again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from fastft.errors import TrainingError

_STEPS_SORTED = 50  # that many steps' rows are sorted at a time, as transformers does: the rest stays chance


def grouped_order(lengths: Sequence[float], a_step: int, seed: int) -> list[int]:
    """Every row once: the `a_step` rows of a step have similar lengths, and steps come in an order by chance.

    The step with the longest row comes first, so that memory runs out at once if it does at all. The same `seed`
    gives the same order, in however many micro-batches a step is computed. transformers' LengthGroupedSampler leaves
    batches sorted from long to short, and draws from torch's own random state, another one after a resume.
    """
    chance = random.Random(seed)
    rows = list(range(len(lengths)))
    chance.shuffle(rows)
    size = _STEPS_SORTED * a_step
    batches: list[list[int]] = []
    for start in range(0, len(rows), size):
        near = sorted(rows[start : start + size], key=lambda row: -lengths[row])
        batches += [near[at : at + a_step] for at in range(0, len(near), a_step)]
    rest = [batches.pop()] if batches and len(batches[-1]) < a_step else []  # a step that isn't full stays last
    chance.shuffle(batches)
    longest = max(range(len(batches)), key=lambda at: max(lengths[row] for row in batches[at]), default=0)
    batches[:1], batches[longest : longest + 1] = batches[longest : longest + 1], batches[:1]
    return [row for batch in (*batches, *rest) for row in batch]


def group_by_length(trainer: Any, lengths: Sequence[int]) -> None:
    """Let `trainer` draw its training rows, of so many tokens each, in `grouped_order`: another one each epoch."""
    if len(lengths) != len(trainer.train_dataset):
        raise TrainingError(
            f"the trainer would feed {len(trainer.train_dataset):,} rows, and {len(lengths):,} were prepared",
            hint="This is a fault of fastft with this version of TRL or Unsloth; the run's train.log may say more.",
        )
    a_step = int(trainer.args.train_batch_size) * int(trainer.args.gradient_accumulation_steps)
    sampler = _sampler(lengths, a_step, int(trainer.args.seed))
    trainer._get_train_sampler = lambda *_: sampler


def row_lengths(lengths: Sequence[int], width: int) -> list[int]:
    """Tokens of each row as it is padded: a row of `width` sequences, as a pair is, to its longest."""
    return [max(lengths[start : start + width]) for start in range(0, len(lengths), width)]


def _sampler(lengths: Sequence[int], a_step: int, seed: int) -> Any:
    from torch.utils.data import Sampler

    class GroupedByLength(Sampler[int]):
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __len__(self) -> int:
            return len(lengths)

        def __iter__(self) -> Iterator[int]:
            return iter(grouped_order(lengths, a_step, seed + self.epoch))

    return GroupedByLength()
