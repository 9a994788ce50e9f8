from __future__ import annotations

import math
from pathlib import Path

import pytest

from fastft.data.conversation import Conversation, Example, Message
from fastft.data.tokenizer import ChatTokenizer
from fastft.evaluation import Answer, evaluate_model, supervised_loss
from fastft.recipe.schema import EvaluationSection

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tiny: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny, dtype="float32").eval()


def _examples() -> list[Example]:
    rows = [[(11 * i + 3 * j) % 400 + 10 for j in range(length)] for i, length in enumerate((4, 9, 30, 17))]
    return [Example(ids, [-100] * (len(ids) // 2) + ids[len(ids) // 2 :], str(i)) for i, ids in enumerate(rows)]


def test_the_loss_is_weighted_by_token_and_does_not_depend_on_padding(model) -> None:
    import torch

    total, count = 0.0, 0
    for example in _examples():
        logprobs = model(torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
        for position, label in enumerate(example.labels):
            if label != -100:
                total -= float(logprobs[position - 1, label])
                count += 1
    loss, tokens = supervised_loss(model, _examples())
    assert tokens == count == 2 + 5 + 15 + 9
    assert loss == pytest.approx(total / count, abs=1e-5)
    assert supervised_loss(model, []) == (None, 0)


def test_answers_in_a_batch_are_those_given_alone_and_in_order(model, tiny: Path) -> None:
    tokenizer = ChatTokenizer.load(tiny)
    prompts = ["Hello!", "Say the number 4.", "What can you do? Tell me in some more words, please."]
    asked = EvaluationSection(prompts=tuple(prompts), max_new_tokens=12)
    together = [a.answer for a in evaluate_model(model, tokenizer, [], [], asked).prompts]
    alone = []
    for prompt in prompts:
        one = EvaluationSection(prompts=(prompt,), max_new_tokens=12)
        alone.append(evaluate_model(model, tokenizer, [], [], one).prompts[0].answer)
    assert together == alone
    assert all(together)


def test_held_out_answers_are_compared_with_the_last_turn(model, tiny: Path) -> None:
    tokenizer = ChatTokenizer.load(tiny)
    greeting = Conversation((Message("user", "Hello!"), Message("assistant", "never this")), "row 1")
    called = Message("assistant", "", tool_calls=({"type": "function", "function": {"name": "f", "arguments": {}}},))
    with_call = Conversation((Message("user", "Hello!"), called), "row 2")
    section = EvaluationSection(samples=5, max_new_tokens=8)
    result = evaluate_model(model, tokenizer, _examples(), [greeting, with_call], section)
    assert [a.prompt for a in result.answers] == ["Hello!"]  # a tool call is no text to compare
    assert result.exact_share == 0
    assert result.loss is not None
    assert result.perplexity == pytest.approx(math.exp(result.loss))


def test_exact_means_the_same_text_but_for_space_around_it() -> None:
    assert Answer("q", " yes\n", "yes").exact
    assert not Answer("q", "Yes", "yes").exact


def test_prompts_are_answered_in_pieces_that_fit() -> None:
    from fastft.evaluation import _ANSWERED_TOKENS, _at_a_time

    room = sorted([100] * 200 + [3_000] * 7 + [20_000])
    pieces = list(_at_a_time(range(len(room)), room))
    assert [index for piece in pieces for index in piece] == list(range(len(room)))
    assert [len(piece) for piece in pieces] == [163, 37, 5, 2, 1]  # as wide as the widest, and never none
    assert all(len(piece) * room[piece[-1]] <= _ANSWERED_TOKENS for piece in pieces[:-1])
