"""What counts as a fault when answers part: a stop that is lost, and not a choice between equals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastft.data.tokenizer import ChatTokenizer
from fastft.inference import Generation
from fastft.model_files import resolve_model
from fastft.proof.checks import behaviour_checks
from fastft.proof.limits import Limits
from fastft.proof.measure import Measured
from fastft.proof.probes import Probe
from fastft.proof.scores import Comparison, Scores, Sequence

STRICT = Limits(0.1, 1e-3, 1e-2, 1.0, tie=0.1, greedy=1.0, exact=1.0, stops=1.0, perplexity=0.01)
PROMPT = [5, 6]


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return ChatTokenizer.load(resolve_model("fastft/tiny", weights=True))


def _measured(tokenizer: ChatTokenizer, ids: list[int], stop: bool, gap: float) -> Measured:
    """One answer. At each of its positions the second choice, token 99, is `gap` nats behind the first."""
    path = [*PROMPT, *ids, tokenizer.end_of_turn_id]
    chosen = np.array([[token, 99] for token in [*path[1:], 7]])
    logprobs = np.tile(np.array([-0.5, -0.5 - gap], dtype=np.float32), (len(path), 1))
    sequence = Sequence("built-in (x)", path, slice(1, len(path) - 1), False)
    answer = Generation(ids, "stop" if stop else "length")
    return Measured([answer], [Scores(sequence, chosen, logprobs, 1.0)], 1536, "float32")


def _verdicts(tokenizer: ChatTokenizer, reference: Measured, found: Measured) -> dict[str, Any]:
    comparison = Comparison(tie=STRICT.tie)
    comparison.add(reference.scores[0], np.full((len(reference.scores[0].sequence.ids), 1536), -7.0, np.float32))
    probe = Probe("built-in (x)", [], None, PROMPT, None, None)
    checks = behaviour_checks([probe], tokenizer, reference, found, comparison, STRICT)
    return {check.name: check for check in checks}


@pytest.mark.parametrize(("gap", "passed", "value"), [(0.05, True, "0 of 0"), (0.5, False, "0 of 1")])
def test_an_answer_that_parted_at_a_tie_may_go_on(
    tokenizer: ChatTokenizer, gap: float, passed: bool, value: str
) -> None:
    reference = _measured(tokenizer, [10, 11, 12], True, gap)
    found = _measured(tokenizer, [10, 99, 13, 14, 15], False, gap)
    verdicts = _verdicts(tokenizer, reference, found)
    assert verdicts["stops"].passed is passed
    assert verdicts["stops"].value.startswith(value)
    assert verdicts["greedy answers"].passed is passed


def test_the_same_answer_without_its_stop_is_a_fault(tokenizer: ChatTokenizer) -> None:
    reference = _measured(tokenizer, [10, 11, 12], True, 3.0)
    found = _measured(tokenizer, [10, 11, 12, 7, 7, 7], False, 3.0)
    verdicts = _verdicts(tokenizer, reference, found)
    assert not verdicts["stops"].passed
    assert "no stop token before the limit" in verdicts["stops"].detail
    assert not verdicts["greedy answers"].passed


@pytest.mark.parametrize(("end", "passed"), [("pad", True), ("text", False)])
def test_an_answer_may_end_where_the_reference_wrote_padding_and_went_on(
    tokenizer: ChatTokenizer, end: str, passed: bool
) -> None:
    """llama.cpp stops at <|endoftext|> by its name; a file that makes it stop at a word is at fault."""
    token = tokenizer.pad_token_id if end == "pad" else 12
    assert token is not None
    reference = _measured(tokenizer, [10, 11, token, 13, 14], False, 3.0)
    found = _measured(tokenizer, [10, 11], True, 3.0)
    assert _verdicts(tokenizer, reference, found)["greedy answers"].passed is passed
    assert not _verdicts(tokenizer, found, reference)["stops"].passed  # the other way round a stop is lost
