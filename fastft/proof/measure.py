"""Answers and distributions of one engine, measured the same way in transformers and in llama.cpp."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from fastft.data.tokenizer import ChatTokenizer
from fastft.inference import Generation
from fastft.proof import scores
from fastft.proof.probes import Probe
from fastft.proof.scores import Comparison, Scores, keep_likeliest

if TYPE_CHECKING:
    import numpy as np


class Engine(Protocol):
    """What can be measured: a model in transformers or in llama.cpp."""

    @property
    def vocabulary(self) -> int: ...

    def answers(self, prompts: Sequence[list[int]], limit: int) -> list[Generation]:
        """Greedy answers, ended by the engine's own stop tokens or after `limit` tokens."""
        ...

    def logprobs(self, sequences: Sequence[list[int]]) -> Iterator[np.ndarray]:
        """Of each sequence, log-probabilities of the next token at each position: float32 [ids, vocabulary]."""
        ...


@dataclass(frozen=True, slots=True)
class Measured:
    """One engine's greedy answers to the probes, and its distributions along fixed sequences.

    `scores[i]` follows prompt and greedy answer of probe i, as the reference gave it; after these come the held-out
    answers that differ from it. So every engine that is compared with the reference is asked the same.
    """

    answers: list[Generation]
    scores: list[Scores]
    vocabulary: int
    dtype: str


def answer_limit(probes: Sequence[Probe]) -> int:
    """New tokens allowed: room for the longest held-out answer and some more, in any case 32."""
    longest = max((len(p.whole_ids) - len(p.prompt_ids) for p in probes if p.whole_ids), default=0)
    return min(256, max(32, longest + 16))


def measure_reference(engine: Engine, probes: Sequence[Probe], tokenizer: ChatTokenizer, *, dtype: str) -> Measured:
    """Ask every probe, and score the answers given and the held-out ones."""
    answers = engine.answers([probe.prompt_ids for probe in probes], answer_limit(probes))
    sequences = _sequences(probes, answers, tokenizer)
    found = engine.logprobs([sequence.ids for sequence in sequences])
    kept = [keep_likeliest(sequence, values) for sequence, values in zip(sequences, found, strict=True)]
    return Measured(answers, kept, engine.vocabulary, dtype)


def measure_against(
    reference: Measured, engine: Engine, probes: Sequence[Probe], into: Comparison, *, dtype: str
) -> Measured:
    """The same of another engine, each of its distributions compared with the reference's on the way, `into`."""
    answers = engine.answers([probe.prompt_ids for probe in probes], answer_limit(probes))
    found = engine.logprobs([theirs.sequence.ids for theirs in reference.scores])
    kept = list(_compared(reference.scores, found, into))
    return Measured(answers, kept, engine.vocabulary, dtype)


def as_reference(measured: Measured, engine: Engine, probes: Sequence[Probe], tokenizer: ChatTokenizer) -> Measured:
    """What `measure_against` found, made fit to be compared with: its scores follow its own answers.

    Ties can only be judged along the path on which the answers part.
    """
    kept = list(measured.scores)
    own = _sequences(probes, measured.answers, tokenizer)[: len(probes)]
    other = [number for number, path in enumerate(own) if path.ids != kept[number].sequence.ids]
    for number, values in zip(other, engine.logprobs([own[number].ids for number in other]), strict=True):
        kept[number] = keep_likeliest(own[number], values)
    return replace(measured, scores=kept)


def exact_share(probes: Sequence[Probe], answers: Sequence[Generation], tokenizer: ChatTokenizer) -> tuple[int, int]:
    """(exact answers, held-out probes): an answer is exact if its text equals the held-out one, outer space aside."""
    pairs = [(p.answer, a) for p, a in zip(probes, answers, strict=True) if p.answer is not None]
    texts = [(gold, tokenizer.decode(a.ids, skip_special_tokens=True)) for gold, a in pairs]
    return sum(gold.strip() == text.strip() for gold, text in texts), len(pairs)


def _compared(reference: Sequence[Scores], found: Iterable[np.ndarray], into: Comparison) -> Iterator[Scores]:
    for theirs, values in zip(reference, found, strict=True):
        into.add(theirs, values)
        yield keep_likeliest(theirs.sequence, values)


def _sequences(
    probes: Sequence[Probe], answers: Sequence[Generation], tokenizer: ChatTokenizer
) -> list[scores.Sequence]:
    """One for each probe, then those held-out answers that aren't what was answered."""
    paths, more = [], []
    for probe, answer in zip(probes, answers, strict=True):
        end = [tokenizer.end_of_turn_id] if answer.stop_reason == "stop" else []
        path, gold = [*probe.prompt_ids, *answer.ids, *end], probe.whole_ids
        start = len(probe.prompt_ids) - 1
        written = slice(start, len(path) - 1 if end else len(path))
        paths.append(scores.Sequence(probe.place, path, written, gold is not None, gold=gold == path))
        if gold is not None and gold != path:
            more.append(scores.Sequence(probe.place, gold, slice(start, len(gold) - 1), True, gold=True))
    return paths + more
