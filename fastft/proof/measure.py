"""Answers and distributions of one engine, measured the same way in transformers and in llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastft.data.tokenizer import ChatTokenizer
from fastft.inference import Generation
from fastft.proof.probes import Probe
from fastft.proof.scores import Comparison, Logprobs, Scores, score

Generate = Callable[[Sequence[list[int]], int], list[Generation]]


@dataclass(frozen=True, slots=True)
class Measured:
    """One engine's greedy answers to the probes, and its distributions along fixed sequences.

    `paths` follow the reference's greedy answers, one a probe; `golds` the held-out answers. Both are of the
    reference that began the comparison, so that every engine is asked the same.
    """

    answers: list[Generation]
    paths: list[Scores]
    golds: list[Scores]
    dtype: str
    vocabulary: int


def answer_limit(probes: Sequence[Probe]) -> int:
    """New tokens allowed: room for the longest held-out answer and some more, in any case 32."""
    longest = max((len(p.whole_ids) - len(p.prompt_ids) for p in probes if p.whole_ids), default=0)
    return min(256, max(32, longest + 16))


def greedy_paths(probes: Sequence[Probe], answers: Sequence[Generation], tokenizer: ChatTokenizer) -> list[list[int]]:
    """Prompt, greedy answer and, where it stopped, the end-of-turn token."""
    closed = [[tokenizer.end_of_turn_id] if a.stop_reason == "stop" else [] for a in answers]
    return [[*p.prompt_ids, *a.ids, *end] for p, a, end in zip(probes, answers, closed, strict=True)]


def measure(
    logprobs: Logprobs,
    generate: Generate,
    probes: Sequence[Probe],
    tokenizer: ChatTokenizer,
    *,
    dtype: str,
    vocabulary: int,
    against: Measured | None = None,
    into: Comparison | None = None,
) -> Measured:
    """Ask every probe and score every sequence; compare all of it with `against` on the way, `into` a Comparison."""
    answers = generate([probe.prompt_ids for probe in probes], answer_limit(probes))
    if against is None:
        paths = greedy_paths(probes, answers, tokenizer)
        sequences = [(p.place, ids) for p, ids in zip(probes, paths, strict=True)]
        golds = [(p.place, p.whole_ids) for p in probes if p.whole_ids]
    else:
        sequences = [(scores.place, scores.ids) for scores in against.paths]
        golds = [(scores.place, scores.ids) for scores in against.golds]
    theirs = against.paths if against else [None] * len(sequences)
    their_golds = against.golds if against else [None] * len(golds)
    scored = [score(logprobs, *s, against=t, into=into) for s, t in zip(sequences, theirs, strict=True)]
    gold = [score(logprobs, *s, against=t, into=into) for s, t in zip(golds, their_golds, strict=True)]
    return Measured(answers, scored, gold, dtype, vocabulary)


def exact_share(probes: Sequence[Probe], answers: Sequence[Generation], tokenizer: ChatTokenizer) -> tuple[int, int]:
    """(exact answers, held-out probes): an answer is exact if its text equals the held-out one, outer space aside."""
    pairs = [(p.answer, a) for p, a in zip(probes, answers, strict=True) if p.answer is not None]
    texts = [(gold, tokenizer.decode(a.ids, skip_special_tokens=True)) for gold, a in pairs]
    return sum(gold.strip() == text.strip() for gold, text in texts), len(pairs)
