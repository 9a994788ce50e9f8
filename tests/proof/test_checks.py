"""What counts as a fault when answers part: a stop that is lost, and not a choice between equals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastft.data.tokenizer import ChatTokenizer
from fastft.inference import Generation
from fastft.model_files import resolve_model
from fastft.proof.checks import behaviour_checks
from fastft.proof.limits import Limits
from fastft.proof.measure import Measured
from fastft.proof.merged import merge_check
from fastft.proof.probes import Probe
from fastft.proof.reference import Merged, Reference
from fastft.proof.scores import Comparison, Scores, Sequence
from fastft.proof.weights import WeightReport

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


@pytest.mark.parametrize(("is_export", "notes"), [(False, True), (True, False)])
def test_a_lossy_export_does_not_pass_for_a_merge_that_lost_what_was_trained(
    tokenizer: ChatTokenizer, is_export: bool, notes: bool
) -> None:
    """A GGUF is compared with the merged model, so it passes however little of the training that one holds."""
    trained, other = (_measured(tokenizer, ids, True, 3.0) for ids in ([10, 11, 12], [20, 21, 22]))
    comparison = Comparison(tie=STRICT.tie)
    comparison.add(trained.scores[0], np.full((len(trained.scores[0].sequence.ids), 1536), -7.0, np.float32))
    lost = WeightReport(compared=1, changed=["a"], update=4.0, kept=2.0, dtype="bfloat16")
    probes = [Probe("built-in (x)", [], None, PROMPT, None, None)]
    merged = Merged("PEFT's merge", other, comparison, lost, is_export=is_export)
    check = merge_check(Reference(tokenizer, probes, Path(), trained, merged), merged, "q8_0")
    assert not check.passed
    assert check.detail.startswith("log-probabilities: ")
    assert bool(check.note) is notes  # what the merged export's own verification tells isn't told again
    assert not notes or check.note.startswith("rounding to bfloat16 left 50% of what was trained")
