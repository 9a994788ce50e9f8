"""The checks that every kind of export gets, made from what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastft.data.tokenizer import ChatTokenizer
from fastft.inference import Generation
from fastft.proof.limits import ELSEWHERE, Limits, misses_allowed
from fastft.proof.measure import Measured, exact_share
from fastft.proof.probes import Probe
from fastft.proof.result import Check
from fastft.proof.scores import Comparison, Difference


def behaviour_checks(
    probes: Sequence[Probe],
    tokenizer: ChatTokenizer,
    reference: Measured,
    found: Measured,
    comparison: Comparison,
    limits: Limits,
) -> Iterator[Check]:
    """Distributions, greedy answers, stopping and exact held-out answers of `found` against `reference`."""
    yield from _distribution_checks(comparison, tokenizer, limits)
    yield _perplexity_check(comparison, limits)
    yield _greedy_check(probes, tokenizer, reference, found, limits)
    yield _stop_check(probes, tokenizer, reference, found, limits)
    yield _exact_check(probes, tokenizer, reference, found, limits)


def ids_check(name: str, pairs: Sequence[tuple[str, list[int], list[int]]], tokenizer: ChatTokenizer) -> Check:
    """`pairs` are (place, ids as trained, ids found). All must be equal."""
    wrong = [pair for pair in pairs if pair[1] != pair[2]]
    detail = _first_id(*wrong[0], tokenizer) if wrong else ""
    return Check(name, f"{len(pairs) - len(wrong)} of {len(pairs)} prompts equal", "all", not wrong, detail)


def text_check(name: str, pairs: Sequence[tuple[str, str, str]]) -> Check:
    """`pairs` are (place, text as trained, text found). All must be equal."""
    wrong = [pair for pair in pairs if pair[1] != pair[2]]
    detail = _first_character(*wrong[0]) if wrong else ""
    return Check(name, f"{len(pairs) - len(wrong)} of {len(pairs)} prompts equal", "all", not wrong, detail)


def facts_check(name: str, facts: Sequence[tuple[str, object, object, bool]]) -> Check:
    """`facts` are (what, as trained, found, whether that is right)."""
    wrong = [f"{what} is {found}, trained {expected}" for what, expected, found, right in facts if not right]
    value = f"{len(facts) - len(wrong)} of {len(facts)} right"
    return Check(name, value, "all", not wrong, "; ".join(wrong))


def _distribution_checks(comparison: Comparison, tokenizer: ChatTokenizer, limits: Limits) -> Iterator[Check]:
    if limits.logprob is not None:
        yield _logprob_check(comparison, tokenizer, limits.logprob)
    passed = comparison.kl_mean <= limits.kl_mean and comparison.kl_max <= limits.kl_max
    yield Check(
        "KL divergence",
        f"mean {comparison.kl_mean:.2g}, largest {comparison.kl_max:.2g} nats",
        f"mean {limits.kl_mean:g}, largest {limits.kl_max:g}",
        passed,
        "" if passed else f"largest at {comparison.kl_place}",
    )
    first = comparison.first_choice
    ties = f", {comparison.ties} of them ties" if comparison.ties else ""
    passed = comparison.top1 >= limits.top1
    yield Check(
        "likeliest token",
        f"{comparison.top1:.2%} of {comparison.positions} positions equal{ties}",
        f"{limits.top1:.0%}, ties within {limits.tie:g} nats",
        passed,
        "" if passed or first is None else f"first at {_choice(first, tokenizer)}",
    )


def _perplexity_check(comparison: Comparison, limits: Limits) -> Check:
    """On the held-out answers, token for token the same in both engines."""
    if not comparison.gold_tokens:
        return Check("perplexity", "no held-out conversations", "", True)
    mine, theirs = comparison.perplexities
    return Check(
        "perplexity",
        f"{mine:.4g} → {theirs:.4g} on {comparison.gold_tokens:,} held-out tokens",
        f"{limits.perplexity:.1%} apart",
        abs(theirs / mine - 1) <= limits.perplexity,
    )


def _logprob_check(comparison: Comparison, tokenizer: ChatTokenizer, allowed: float) -> Check:
    """Over the held-out answers; in a run without any, over the answers to built-in prompts, where more is allowed."""
    largest = comparison.largest
    if largest is None:
        largest, allowed = comparison.largest_elsewhere, ELSEWHERE * allowed
    assert largest is not None  # there are always built-in prompts
    passed = largest.size <= allowed
    detail = "" if passed else f"largest at {_where(largest, tokenizer)}"
    return Check("log-probabilities", f"{largest.size:.2g} apart at most", f"{allowed:g} nats", passed, detail)


def _greedy_check(
    probes: Sequence[Probe], tokenizer: ChatTokenizer, reference: Measured, found: Measured, limits: Limits
) -> Check:
    equal, detail = 0, ""
    for number, probe in enumerate(probes):
        at = _parting(reference.answers[number], found.answers[number], tokenizer)
        if at is None or _is_tie(reference, found, number, probe, limits, tokenizer):
            equal += 1
        elif not detail:
            mine, theirs = (_shown(m.answers[number], tokenizer) for m in (reference, found))
            detail = f"first at {probe.place}, answer token {at}: {theirs}, the reference {mine}"
    passed = len(probes) - equal <= misses_allowed(limits.greedy, len(probes))
    value = f"{equal} of {len(probes)} equal"
    return Check("greedy answers", value, f"{limits.greedy:.0%}", passed, detail)


def _parting(reference: Generation, found: Generation, tokenizer: ChatTokenizer) -> int | None:
    """The first answer token that differs (a stop counts as one), or None if the answers are the same.

    llama.cpp also ends answers at tokens that it knows by name, <|endoftext|> for one, whatever the file says. Where
    the reference wrote its end-of-text or padding token and then went on, stopping there is the same answer.
    """
    for at, (mine, theirs) in enumerate(zip(reference.ids, found.ids, strict=False)):
        if mine != theirs:
            return at
    at = min(len(reference.ids), len(found.ids))
    if len(reference.ids) == len(found.ids) and reference.stop_reason == found.stop_reason:
        return None
    ends = (tokenizer.eos_token_id, tokenizer.pad_token_id)
    if found.stop_reason == "stop" and at < len(reference.ids) and reference.ids[at] in ends:
        return None
    return at


def _is_tie(
    reference: Measured, found: Measured, number: int, probe: Probe, limits: Limits, tokenizer: ChatTokenizer
) -> bool:
    """Whether the answers part, and the reference holds the two tokens there for nearly equally likely."""
    at = _parting(reference.answers[number], found.answers[number], tokenizer)
    if at is None:
        return False
    mine, theirs = (
        answer.ids[at] if at < len(answer.ids) else tokenizer.end_of_turn_id
        for answer in (reference.answers[number], found.answers[number])
    )
    path, position = reference.scores[number], len(probe.prompt_ids) + at - 1
    if position >= len(path.sequence.ids) or mine == theirs:
        return False
    return path.logprob(position, mine) - path.logprob(position, theirs) <= limits.tie


def _stop_check(
    probes: Sequence[Probe], tokenizer: ChatTokenizer, reference: Measured, found: Measured, limits: Limits
) -> Check:
    """Where the reference stopped, but for answers that parted from it at a tie: those may well go on longer."""
    due = [
        (probe, found.answers[number])
        for number, probe in enumerate(probes)
        if reference.answers[number].stop_reason == "stop"
        and (
            found.answers[number].stop_reason == "stop"
            or not _is_tie(reference, found, number, probe, limits, tokenizer)
        )
    ]
    late = [probe.place for probe, answer in due if answer.stop_reason != "stop"]
    passed = len(late) <= misses_allowed(limits.stops, len(due))
    detail = "" if not late else f"first at {late[0]}: no stop token before the limit, where the reference stopped"
    value = f"{len(due) - len(late)} of {len(due)} answers stop"
    if not due:
        detail = "the reference itself ended none of its answers, so nothing is proven here"
    return Check("stops", value, f"{limits.stops:.0%}", passed, detail)


def _exact_check(
    probes: Sequence[Probe], tokenizer: ChatTokenizer, reference: Measured, found: Measured, limits: Limits
) -> Check:
    mine, held_out = exact_share(probes, reference.answers, tokenizer)
    theirs, _ = exact_share(probes, found.answers, tokenizer)
    if not held_out:
        return Check("exact held-out answers", "no held-out conversations", "", True)
    passed = mine - theirs <= misses_allowed(limits.exact, mine)
    value = f"{mine / held_out:.0%} → {theirs / held_out:.0%} of {held_out}"
    return Check("exact held-out answers", value, f"{limits.exact:.0%} of the reference's", passed)


def _first_id(place: str, expected: list[int], found: list[int], tokenizer: ChatTokenizer) -> str:
    at = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), None)
    at = min(len(expected), len(found)) if at is None else at
    mine, theirs = (_token(ids[at], tokenizer) if at < len(ids) else "the end" for ids in (expected, found))
    return f"first at {place}, token {at}: {theirs}, trained {mine}"


def _first_character(place: str, expected: str, found: str) -> str:
    pairs = enumerate(zip(expected, found, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(expected), len(found)))
    mine, theirs = (repr(text[max(at - 16, 0) : at + 32]) for text in (expected, found))
    return f"first at {place}, character {at}: {theirs}, trained {mine}"


def _where(difference: Difference, tokenizer: ChatTokenizer) -> str:
    return (
        f"{difference.place}, position {difference.position}, token {_token(difference.token, tokenizer)}: "
        f"{difference.found:.5f}, the reference {difference.reference:.5f}"
    )


def _choice(difference: Difference, tokenizer: ChatTokenizer) -> str:
    assert difference.other_token is not None  # set wherever choices are compared
    return (
        f"{difference.place}, position {difference.position}: {_token(difference.token, tokenizer)}, the reference "
        f"chooses {_token(difference.other_token, tokenizer)} and gives them {difference.found:.4f} and "
        f"{difference.reference:.4f}"
    )


def _token(token: int, tokenizer: ChatTokenizer) -> str:
    return f"{token} {tokenizer.decode([token])!r}"


def _shown(answer: Generation, tokenizer: ChatTokenizer) -> str:
    text = tokenizer.decode(answer.ids)
    ending = "" if answer.stop_reason == "stop" else " (no stop)"
    return f"{text if len(text) <= 60 else text[:59] + '…'!r}{ending}"
