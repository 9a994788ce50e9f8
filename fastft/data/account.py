"""Counting what becomes of every row, while the rows stream by, so that nothing is lost in silence."""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastft.data.audit import PLACES, Audit, Part, Tally, counted, histogram, quantiles, warnings_of
from fastft.data.conversation import IGNORE
from fastft.data.faults import Dropped
from fastft.data.render import Rendered
from fastft.data.store import numbers
from fastft.errors import Fault

if TYPE_CHECKING:
    import numpy as np


class Account:
    """Counts what becomes of each row while the rows stream by; `audit` sums it up once the split is known.

    Numbers are kept in arrays, a few bytes a conversation, and places only of the first rows for each reason.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.sources: dict[str, int] = {}  # "chats.jsonl (messages)": rows seen
        self.conversations = 0
        self.examples = 0
        self.broken: list[Fault] = []
        self._dropped: dict[str, _Counter] = {}
        self._notes: dict[str, _Counter] = {}
        self._content = array("Q")  # 64 bits of each conversation's digest
        self._first, self._count = array("q"), array("i")  # of each conversation: its examples
        self._numbers = {name: array("i") for name in ("length", "supervised", "truncated", "unlearned")}
        self._digests = bytearray()  # 32 bytes an example

    def lost(self, dropped: Dropped) -> None:
        self._dropped.setdefault(dropped.reason, _Counter()).add(dropped.place, dropped.detail)

    def note(self, what: str, place: str) -> None:
        self._notes.setdefault(what, _Counter()).add(place)

    def add(self, rendered: Rendered, content: str) -> None:
        """Count a conversation; `content` is all that it says."""
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()
        self._content.append(int.from_bytes(digest[:8], "little"))
        self._first.append(self.examples)
        self._count.append(len(rendered.examples))
        self.examples += len(rendered.examples)
        self.conversations += 1
        for drop in rendered.dropped:
            self.lost(drop)
        place = rendered.conversation.place
        if rendered.examples and rendered.split:
            self.note("conversations made into one example an answer", place)
        if rendered.examples and rendered.unanswered:
            self.note("rows whose turns after the last answer are not used", place)
        if rendered.examples and rendered.in_pieces:
            self.note("conversations longer than max_length, cut between turns", place)

    def add_examples(self, columns: Mapping[str, Any]) -> None:
        """Count a batch of examples, in the order of their conversations; see `store.example_columns`."""
        import numpy as np

        ids, labels = columns["input_ids"], columns["labels"]
        ends, tokens, learned = numbers(ids.offsets), numbers(ids.values), numbers(labels.values)
        supervised = np.concatenate([[0], (learned != IGNORE).cumsum()])[ends]
        self._numbers["length"].extend(np.diff(ends).tolist())
        self._numbers["supervised"].extend(np.diff(supervised).tolist())
        for name in ("truncated", "unlearned"):
            self._numbers[name].extend(numbers(columns[name]).tolist())
        for start, end in itertools.pairwise(ends.tolist()):
            digest = hashlib.sha256(tokens[start:end].data)
            digest.update(learned[start:end].data)
            self._digests += digest.digest()

    def contents(self) -> np.ndarray:
        """64 bits of each conversation's digest: equal for equal ones."""
        import numpy as np

        return np.array(self._content, np.uint64)

    def examples_of(self, conversations: np.ndarray) -> np.ndarray:
        """Indices of the examples of some conversations, in their order."""
        import numpy as np

        first, count = np.array(self._first, np.int64)[conversations], np.array(self._count)[conversations]
        ends = count.cumsum()
        return np.repeat(first - (ends - count), count) + np.arange(ends[-1] if len(ends) else 0)

    def kept(self, conversations: np.ndarray) -> np.ndarray:
        """Those that at least one example came of."""
        import numpy as np

        return conversations[np.array(self._count)[conversations] > 0]

    def audit(self, train: np.ndarray, evaluation: np.ndarray, place_of: Callable[[int], str], **facts: Any) -> Audit:
        """The whole account. `train` and `evaluation` are indices of conversations, `facts` the Audit's own fields."""
        import numpy as np

        kept_train, kept_evaluation = self.kept(train), self.kept(evaluation)
        content = self.contents()
        learned = np.unique(content[kept_train])
        leaked = kept_evaluation[np.isin(content[kept_evaluation], learned)]
        part, held_out = self._part(kept_train), self._part(kept_evaluation)
        dropped = {reason: counter.tally() for reason, counter in _by_count(self._dropped)}
        duplicates = len(kept_train) - len(learned)
        leaks = Tally(len(leaked), tuple(place_of(int(index)) for index in leaked[:PLACES]))
        return Audit(
            rows=self.rows,
            lost_rows=self.rows - len(kept_train) - len(kept_evaluation),
            train=part,
            evaluation=held_out,
            dropped=dropped,
            notes={what: counter.tally() for what, counter in self._notes.items()},
            duplicates=duplicates,
            leaked=leaks,
            fingerprint=hashlib.sha256(content.tobytes()).hexdigest(),
            examples_sha256=self._examples_sha256(train, evaluation),
            broken=tuple(str(fault) for fault in self.broken),
            sources=dict(self.sources),
            warnings=(
                *self._broken_rows(),
                *warnings_of(part, held_out, dropped, duplicates, leaks, facts["max_length"]),
                *_fewer_held_out(len(evaluation), len(kept_evaluation)),
            ),
            **facts,
        )

    def _broken_rows(self) -> Iterator[str]:
        if self.broken:
            are = "is" if len(self.broken) == 1 else "are"
            more = ", the first:" if len(self.broken) > PLACES else ":"
            first = "".join(f"\n    {fault}" for fault in self.broken[:PLACES])
            yield f"{counted(len(self.broken), 'broken row')} {are} passed over (all of them in --json){more}{first}"

    def _examples_sha256(self, train: np.ndarray, evaluation: np.ndarray) -> str:
        import numpy as np

        digests = np.frombuffer(bytes(self._digests), np.uint8).reshape(-1, 32)
        sides = [digests[self.examples_of(side)].tobytes() for side in (train, evaluation)]
        return hashlib.sha256(b"|".join(sides)).hexdigest()

    def _part(self, kept: np.ndarray) -> Part:
        import numpy as np

        chosen = self.examples_of(kept)
        length, supervised, truncated, unlearned = (np.array(a, np.int64)[chosen] for a in self._numbers.values())
        ordered = np.sort(length + truncated).tolist()
        return Part(
            rows=len(kept),
            examples=len(chosen),
            tokens=int(length.sum()),
            supervised=int(supervised.sum()),
            truncated_examples=int((truncated > 0).sum()),
            truncated_tokens=int(truncated.sum()),
            truncated_supervised=int(unlearned.sum()),
            lengths=quantiles(ordered),
            histogram=histogram(ordered),
        )


def _fewer_held_out(chosen: int, kept: int) -> Iterator[str]:
    if kept < chosen:
        yield (
            f"data.eval_split holds out {counted(chosen, 'row')} and only {kept:,} can be evaluated on: "
            "the others are among those left out"
        )


@dataclass(slots=True)
class _Counter:
    """A Tally in the making."""

    count: int = 0
    places: list[str] = field(default_factory=list)
    detail: str = ""

    def add(self, place: str, detail: str = "") -> None:
        if not self.count:
            self.detail = detail
        self.count += 1
        if len(self.places) < PLACES and place not in self.places:
            self.places.append(place)

    def tally(self) -> Tally:
        return Tally(self.count, tuple(self.places), self.detail)


def _by_count(counters: Mapping[str, _Counter]) -> list[tuple[str, _Counter]]:
    return sorted(counters.items(), key=lambda item: -item[1].count)
