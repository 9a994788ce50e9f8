"""Next-token distributions of two engines, compared position by position."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

KEPT = 1024  # likeliest tokens kept of each distribution; a whole one of a large vocabulary is 600 kB a position
_IMPOSSIBLE = -1e4  # the log-probability put in the place of NaN and minus infinity, so that sums stay finite
_LIKELY = -3.0  # log of 5 %: log-probabilities of rarer tokens mostly carry the noise of 16-bit arithmetic


@dataclass(frozen=True, slots=True)
class Sequence:
    """Token ids to score. The answer's tokens are predicted at the positions `answer` (the prompt's last is the first).

    What follows the end-of-turn token is never generated, so its prediction is nobody's business. `held_out` tells
    the kind of conversation the model was trained for from prompts that may be strange to it, `gold` the held-out
    answer itself from one the model gave.
    """

    place: str
    ids: list[int]
    answer: slice
    held_out: bool
    gold: bool = False

    def surprise(self, logprobs: np.ndarray) -> float:
        """Negative log-likelihood of the answer's tokens in nats, by log-probabilities [ids, vocabulary]."""
        positions = range(len(self.ids))[self.answer]
        return -float(sum(logprobs[at, self.ids[at + 1]] for at in positions if at + 1 < len(self.ids)))

    @property
    def answer_tokens(self) -> int:
        return sum(at + 1 < len(self.ids) for at in range(len(self.ids))[self.answer])


@dataclass(frozen=True, slots=True)
class Scores:
    """The likeliest next tokens after each of the ids: `tokens` and `logprobs` are [ids, KEPT], likeliest first.

    `surprise` is the answer's negative log-likelihood in nats.
    """

    sequence: Sequence
    tokens: np.ndarray
    logprobs: np.ndarray
    surprise: float

    def logprob(self, position: int, token: int) -> float:
        """Of `token` after position `position`; for a token not kept, an upper bound."""
        found = (self.tokens[position] == token).nonzero()[0]
        return float(self.logprobs[position][found[0] if len(found) else -1])


@dataclass(frozen=True, slots=True)
class Difference:
    """A place where two distributions differ: after `position` tokens of `place`, on `token`."""

    place: str
    position: int
    token: int
    reference: float
    found: float
    other_token: int | None = None  # the reference's own choice, where the choices differ

    @property
    def size(self) -> float:
        return abs(self.reference - self.found)


@dataclass(slots=True)
class Comparison:
    """Sums over all positions of all sequences compared."""

    tie: float
    positions: int = 0
    same_choice: int = 0
    ties: int = 0
    kl_sum: float = 0.0
    kl_max: float = 0.0
    kl_place: str = ""
    largest: Difference | None = None  # over held-out answers
    largest_elsewhere: Difference | None = None  # over answers to built-in prompts
    first_choice: Difference | None = None
    gold_tokens: int = 0  # of held-out answers
    gold_surprise: tuple[float, float] = (0.0, 0.0)  # nats over them: the reference's, the other engine's

    @property
    def perplexities(self) -> tuple[float, float]:
        """On the held-out answers: the reference's, the other engine's."""
        mine, theirs = (min(nats / max(self.gold_tokens, 1), 700.0) for nats in self.gold_surprise)
        return math.exp(mine), math.exp(theirs)

    @property
    def kl_mean(self) -> float:
        return self.kl_sum / max(self.positions, 1)

    @property
    def top1(self) -> float:
        """Share of positions with the same likeliest token, ties counted as the same."""
        return (self.same_choice + self.ties) / max(self.positions, 1)

    def add(self, reference: Scores, found: np.ndarray) -> None:
        """Compare one sequence; `found` is the other engine's log-probabilities, [positions, vocabulary]."""
        import numpy as np

        if np.isnan(found[:, 0]).any():  # one NaN among the logits makes the whole row NaN
            found = np.nan_to_num(found, nan=_IMPOSSIBLE)
        theirs = np.take_along_axis(found, reference.tokens, -1)
        self._add_largest(reference, theirs)
        self._add_kl(reference, theirs)
        self._add_choices(reference, found)
        self.positions += len(found)
        if reference.sequence.gold:
            self.gold_tokens += reference.sequence.answer_tokens
            mine, other = self.gold_surprise
            self.gold_surprise = mine + reference.surprise, other + reference.sequence.surprise(found)

    def _add_largest(self, reference: Scores, theirs: np.ndarray) -> None:
        """Where an answer is written: the next token's log-probability, of tokens that the reference finds likely."""
        import numpy as np

        sequence = reference.sequence
        difference = np.abs(reference.logprobs - theirs)[sequence.answer]
        difference = np.where(reference.logprobs[sequence.answer] >= _LIKELY, difference, 0)
        row, column = np.unravel_index(difference.argmax(), difference.shape)
        row += sequence.answer.start
        found = Difference(
            sequence.place, int(row), int(reference.tokens[row, column]),
            float(reference.logprobs[row, column]), float(theirs[row, column]),
        )  # fmt: skip
        if sequence.held_out:
            self.largest = _larger(self.largest, found)
        else:
            self.largest_elsewhere = _larger(self.largest_elsewhere, found)

    def _add_kl(self, reference: Scores, theirs: np.ndarray) -> None:
        """KL(reference || found) in nats over the kept tokens, all others taken as one (a lower bound of the whole)."""
        import numpy as np

        ours, theirs = reference.logprobs.astype(np.float64), np.maximum(theirs.astype(np.float64), _IMPOSSIBLE)
        kl = (np.exp(ours) * (ours - theirs)).sum(-1)
        rest, their_rest = (np.clip(1 - np.exp(x).sum(-1), 1e-12, 1) for x in (ours, theirs))
        kl = np.maximum(kl + rest * (np.log(rest) - np.log(their_rest)), 0)
        self.kl_sum += float(kl.sum())
        if kl.max() > self.kl_max:
            self.kl_max = float(kl.max())
            self.kl_place = f"{reference.sequence.place}, position {int(kl.argmax())}"

    def _add_choices(self, reference: Scores, found: np.ndarray) -> None:
        choices = found.argmax(-1)
        for position, (mine, other) in enumerate(zip(reference.tokens[:, 0], choices, strict=True)):
            if mine == other:
                self.same_choice += 1
            elif reference.logprobs[position, 0] - reference.logprob(position, int(other)) <= self.tie:
                self.ties += 1
            elif self.first_choice is None:
                self.first_choice = Difference(
                    reference.sequence.place, position, int(other), float(reference.logprobs[position, 0]),
                    reference.logprob(position, int(other)), int(mine),
                )  # fmt: skip


def _larger(first: Difference | None, second: Difference) -> Difference:
    return second if first is None or second.size > first.size else first


def keep_likeliest(sequence: Sequence, logprobs: np.ndarray) -> Scores:
    """The Scores of one engine's log-probabilities, float32 [ids, vocabulary]."""
    import numpy as np

    kept = min(KEPT, logprobs.shape[-1])
    tokens = np.argpartition(-logprobs, kept - 1, axis=-1)[:, :kept]
    values = np.take_along_axis(logprobs, tokens, -1)
    order = np.argsort(-values, axis=-1, kind="stable")
    kept_tokens, kept_values = (np.take_along_axis(array, order, -1) for array in (tokens, values))
    return Scores(sequence, kept_tokens, kept_values, sequence.surprise(logprobs))
