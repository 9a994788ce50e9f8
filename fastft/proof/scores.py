"""Next-token distributions of two engines, compared position by position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

KEPT = 1024  # likeliest tokens kept of each distribution; a whole one of a large vocabulary is 600 kB a position
_IMPOSSIBLE = -1e4  # the log-probability put in the place of NaN and minus infinity, so that sums stay finite
_COMPARED = 10  # likeliest tokens whose log-probabilities are compared one by one
Logprobs = Callable[[Sequence[int]], "np.ndarray"]  # ids -> float32 [len(ids), vocabulary]


@dataclass(frozen=True, slots=True)
class Scores:
    """The likeliest next tokens after each of `ids`: `tokens` and `logprobs` are [len(ids), KEPT], likeliest first."""

    place: str
    ids: list[int]
    tokens: np.ndarray
    logprobs: np.ndarray

    def logprob(self, position: int, token: int) -> float:
        """Of `token` after ids[position]; for a token not kept, that of the least likely one kept (an upper bound)."""
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
    largest: Difference | None = None
    first_choice: Difference | None = None

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

    def _add_largest(self, reference: Scores, theirs: np.ndarray) -> None:
        import numpy as np

        difference = np.abs(reference.logprobs - theirs)[:, :_COMPARED]
        row, column = np.unravel_index(difference.argmax(), difference.shape)
        if self.largest is None or difference[row, column] > self.largest.size:
            self.largest = Difference(
                reference.place, int(row), int(reference.tokens[row, column]),
                float(reference.logprobs[row, column]), float(theirs[row, column]),
            )  # fmt: skip

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
            self.kl_place = f"{reference.place}, position {int(kl.argmax())}"

    def _add_choices(self, reference: Scores, found: np.ndarray) -> None:
        choices = found.argmax(-1)
        for position, (mine, other) in enumerate(zip(reference.tokens[:, 0], choices, strict=True)):
            if mine == other:
                self.same_choice += 1
            elif reference.logprobs[position, 0] - reference.logprob(position, int(other)) <= self.tie:
                self.ties += 1
            elif self.first_choice is None:
                self.first_choice = Difference(
                    reference.place, position, int(other), float(reference.logprobs[position, 0]),
                    reference.logprob(position, int(other)), int(mine),
                )  # fmt: skip


def score(logprobs: Logprobs, place: str, ids: list[int], *, against: Scores | None, into: Comparison | None) -> Scores:
    """Score one sequence, keep its likeliest tokens, and compare all of it `against` another engine's scores."""
    import numpy as np

    found = logprobs(ids)
    if against is not None and into is not None:
        into.add(against, found)
    kept = min(KEPT, found.shape[-1])
    tokens = np.argpartition(-found, kept - 1, axis=-1)[:, :kept]
    values = np.take_along_axis(found, tokens, -1)
    order = np.argsort(-values, axis=-1, kind="stable")
    return Scores(place, ids, np.take_along_axis(tokens, order, -1), np.take_along_axis(values, order, -1))
