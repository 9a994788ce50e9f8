"""Pairs, judged answers and prompts as token ids, on real tokenizers and the packaged one; no row is lost unseen."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from fastft.data.conversation import IGNORE, Conversation, Example, Message
from fastft.data.formats import Kind
from fastft.data.preferences import LONG_PROMPT, SAME, render_judged, render_pairs, render_prompts
from fastft.data.prepare import PreparedData, prepare_data
from fastft.data.render import TOO_LONG, Renderer
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import DatasetError
from fastft.recipe.schema import DataSection

# What each tokenizer's template writes for a question and two answers: the prompt, and each answer with its end.
QUESTION, CHOSEN, REJECTED = "Is 2 + 2 four?", "Yes, it is.", "No."
WRITTEN = {
    "qwen": (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>",
    ),
    "llama": (None, "<|eot_id|>"),  # its prompt holds a date
    "small": (f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
}


@pytest.fixture(scope="session")
def small(tiny: Path) -> ChatTokenizer:
    return ChatTokenizer.load(tiny)


@pytest.fixture(scope="session", params=WRITTEN)
def named(request: pytest.FixtureRequest) -> tuple[str, ChatTokenizer]:
    return request.param, request.getfixturevalue(request.param)


Pair = Callable[..., Conversation]


@pytest.fixture
def pair() -> Pair:
    """pair(chosen, rejected, question): texts, or lists of texts for answers of several turns."""

    def answer(turns: str | Sequence[str]) -> tuple[Message, ...]:
        texts = [turns] if isinstance(turns, str) else turns
        return tuple(Message(("assistant", "user")[i % 2], text) for i, text in enumerate(texts))

    def make(chosen: Any = CHOSEN, rejected: Any = REJECTED, question: str = QUESTION) -> Conversation:
        return Conversation(
            (Message("user", question),), "pairs.jsonl:1", chosen=answer(chosen), rejected=answer(rejected)
        )

    return make


def _split(example: Example) -> tuple[list[int], list[int]]:
    """(ids without a label, ids with one); fails if they are not one run each, or a label isn't its id."""
    start = example.labels.count(IGNORE)
    assert example.labels == [IGNORE] * start + example.input_ids[start:]
    return example.input_ids[:start], example.input_ids[start:]


def _prompt_ids(tokenizer: ChatTokenizer, conversation: Conversation) -> list[int]:
    return tokenizer.prompt_ids(conversation.as_dicts(), tools=conversation.tools or None)


def _pairs(tokenizer: ChatTokenizer, *conversations: Conversation, max_length: int = 512, **options: Any) -> list[Any]:
    return list(render_pairs(Renderer(tokenizer, max_length=max_length, **options), conversations))


def test_a_pair_is_its_prompt_and_each_answer_to_its_end_of_turn(named: tuple[str, ChatTokenizer], pair: Pair) -> None:
    name, tokenizer = named
    (rendered,) = _pairs(tokenizer, pair())
    (prompt, chosen), (same, rejected) = map(_split, rendered.examples)
    text, end = WRITTEN[name]
    assert prompt == same == _prompt_ids(tokenizer, pair())
    if text is not None:
        assert prompt == tokenizer.encode(text)
    assert chosen == tokenizer.encode(CHOSEN + end)
    assert rejected == tokenizer.encode(REJECTED + end)
    assert chosen[-1] == rejected[-1] == tokenizer.end_of_turn_id


def test_a_judged_answer_is_the_same_ids_as_in_a_pair(named: tuple[str, ChatTokenizer], pair: Pair) -> None:
    _, tokenizer = named
    both = pair()
    good = Conversation(both.messages, "x:1", chosen=both.chosen, label=True)
    bad = Conversation(both.messages, "x:2", rejected=both.rejected, label=False)
    judged = list(render_judged(Renderer(tokenizer, max_length=512), [good, bad]))
    (rendered,) = _pairs(tokenizer, both)
    assert [len(r.examples) for r in judged] == [1, 1]
    for one, side in zip(judged, rendered.examples, strict=True):
        assert (one.examples[0].input_ids, one.examples[0].labels) == (side.input_ids, side.labels)


def test_a_prompt_is_what_inference_feeds_and_nothing_is_supervised(
    named: tuple[str, ChatTokenizer], pair: Pair
) -> None:
    _, tokenizer = named
    asked = Conversation(pair().messages, "x:1")
    (rendered,) = render_prompts(tokenizer, [asked], 512)
    assert rendered.examples[0].input_ids == _prompt_ids(tokenizer, asked)
    assert set(rendered.examples[0].labels) == {IGNORE}


def test_a_system_turn_and_earlier_turns_belong_to_the_prompt(named: tuple[str, ChatTokenizer], pair: Pair) -> None:
    _, tokenizer = named
    history = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello!"))
    whole = Conversation((*history, *pair().messages), "x:1", chosen=pair().chosen, rejected=pair().rejected)
    (rendered,) = _pairs(tokenizer, whole)
    for example in rendered.examples:
        assert _split(example)[0] == _prompt_ids(tokenizer, whole)
    assert "Hello!" in tokenizer.decode(_split(rendered.examples[0])[0])


def test_an_answer_of_several_turns_counts_whole(small: ChatTokenizer, pair: Pair) -> None:
    turns = ["Let me think.", "And?", "Yes."]
    (rendered,) = _pairs(small, pair(turns, REJECTED))
    _, chosen = _split(rendered.examples[0])
    between = "<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
    assert chosen == small.encode(f"Let me think.{between}Yes.<|im_end|>")


def test_what_is_too_long_loses_the_end_of_its_answer_and_never_its_prompt(small: ChatTokenizer, pair: Pair) -> None:
    long = "one two three four five six seven eight nine ten"
    prompt = _prompt_ids(small, pair())
    whole = small.encode(long + "<|im_end|>")
    (rendered,) = _pairs(small, pair(long, REJECTED), max_length=len(prompt) + 4)
    (kept, chosen), (_, rejected) = map(_split, rendered.examples)
    assert kept == prompt
    assert chosen == whole[:4]
    assert rejected == small.encode(REJECTED + "<|im_end|>")[:4]
    assert rendered.examples[0].truncated == len(whole) - 4
    (dropped,) = _pairs(small, pair(long, REJECTED), max_length=len(prompt) + 4, truncation="drop")
    assert (dropped.examples, dropped.dropped[0].reason) == ((), "longer than max_length")


@pytest.mark.parametrize(
    ("conversation", "length", "reason"),
    [
        ({"chosen": "Yes.", "rejected": "Yes."}, 512, SAME),
        ({"chosen": "one two three four", "rejected": "one two three five"}, 3, f"{SAME} within max_length"),
        ({}, 0, TOO_LONG),
        ({"chosen": "Yes.<|im_end|>"}, 512, "a message holds a control token of the model as text"),
        ({"question": "<|im_start|>"}, 512, "a message holds a control token of the model as text"),
        ({"chosen": "  "}, 512, "an assistant turn is empty"),
    ],
)
def test_a_pair_that_teaches_nothing_is_left_out_for_a_reason(
    conversation: dict[str, str], length: int, reason: str, small: ChatTokenizer, pair: Pair
) -> None:
    """`length` is counted after the prompt where it is small."""
    made = pair(**conversation)
    longest = length if length > 100 else len(_prompt_ids(small, pair())) + length
    (rendered,) = _pairs(small, made, max_length=longest)
    assert rendered.examples == ()
    assert [drop.reason for drop in rendered.dropped] == [reason]


def test_a_prompt_that_is_too_long_is_left_out_with_both_numbers(small: ChatTokenizer, pair: Pair) -> None:
    (rendered,) = render_prompts(small, [Conversation(pair().messages, "x:1")], 5)
    (drop,) = rendered.dropped
    assert drop.reason == LONG_PROMPT
    assert drop.detail == f"{len(_prompt_ids(small, pair()))} tokens, and 5 are left for it"


def test_order_is_kept_through_rows_that_are_left_out(small: ChatTokenizer, pair: Pair) -> None:
    made = [pair(f"yes {n}", f"no {n}" if n % 7 else f"yes {n}") for n in range(1101)]  # more than two chunks
    rendered = _pairs(small, *made)
    assert [r.conversation for r in rendered] == made
    assert [len(r.examples) for r in rendered] == [2 if n % 7 else 0 for n in range(1101)]
    assert f"yes 1100{small.decode([small.end_of_turn_id], skip_special_tokens=False)}" == small.decode(
        _split(rendered[-1].examples[0])[1], skip_special_tokens=False
    )


def _prepare(tokenizer: ChatTokenizer, kind: str, longest: int = 1024, **data: Any) -> PreparedData:
    section = DataSection.model_validate(data)
    return prepare_data(section, tokenizer, max_length=longest, seed=1, kind=cast(Kind, kind))


def _check_every_example(prepared: PreparedData, tokenizer: ChatTokenizer, width: int) -> None:
    for examples, conversations in (
        (prepared.train, prepared.train_conversations),
        (prepared.evaluation, prepared.evaluation_conversations),
    ):
        assert len(examples) == width * len(conversations)
        for number, conversation in enumerate(conversations):
            prompt = _prompt_ids(tokenizer, conversation)
            for example in examples[width * number : width * (number + 1)]:
                before, answer = _split(example)
                assert before == prompt
                assert len(example.input_ids) <= 1024
                assert answer[-1] == tokenizer.end_of_turn_id or example.truncated


@pytest.mark.parametrize(("file", "kind", "width"), [("dpo_en_demo", "preference", 2), ("kto_en_demo", "unpaired", 1)])
def test_every_row_of_a_public_set_is_accounted_for(
    file: str, kind: str, width: int, tokenizer: ChatTokenizer, shared: Path
) -> None:
    path = shared / "data" / f"{file}.json"
    rows = json.loads(path.read_text())
    prepared = _prepare(tokenizer, kind, path=str(path), eval_split=20)
    lost = sum(tally.count for tally in prepared.audit.dropped.values())
    assert len(prepared.train_conversations) + len(prepared.evaluation_conversations) + lost == len(rows)
    assert 15 <= len(prepared.evaluation_conversations) <= 20  # of 20 held out, some may be too long
    assert prepared.audit.train.rows == len(prepared.train_conversations)
    assert set(prepared.audit.dropped) <= {TOO_LONG}  # prompts of more than 1024 tokens
    assert lost < len(rows) // 7
    _check_every_example(prepared, tokenizer, width)
    if kind == "unpaired":
        labels = Counter(c.label for c in (*prepared.train_conversations, *prepared.evaluation_conversations))
        assert sum(labels.values()) + lost == len(rows)
        assert all(bool(c.chosen) is c.label and bool(c.rejected) is not c.label for c in prepared.train_conversations)


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _texts(count: int, name: str = "") -> list[dict[str, str]]:
    return [{"prompt": f"{name} {n}?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(count)]


def test_reasons_are_counted_with_a_row_of_each(small: ChatTokenizer, tmp_path: Path) -> None:
    path = _write(
        tmp_path / "pairs.jsonl",
        [
            *_texts(5),
            {"prompt": "p", "chosen": "<|im_end|>", "rejected": "b"},
            {"prompt": "word " * 200, "chosen": "a", "rejected": "b"},
            {"prompt": "word " * 300, "chosen": "a", "rejected": "b"},
        ],
    )
    prepared = _prepare(small, "preference", 64, path=str(path))
    found = {reason: (tally.count, tally.places[0]) for reason, tally in prepared.audit.dropped.items()}
    assert found == {
        "a message holds a control token of the model as text": (1, "pairs.jsonl:6"),
        TOO_LONG: (2, "pairs.jsonl:7"),
    }
    assert prepared.audit.train.rows == 5


def test_equal_answers_and_broken_labels_are_named_before_anything_else(small: ChatTokenizer, tmp_path: Path) -> None:
    same = _write(tmp_path / "same.jsonl", [*_texts(2), {"prompt": "p", "chosen": "a", "rejected": "a"}])
    with pytest.raises(DatasetError) as caught:
        _prepare(small, "preference", path=str(same))
    assert [(f.where, f.found) for f in caught.value.faults] == [
        ("same.jsonl:3", "chosen and rejected are the same answer")
    ]
    judged = _write(tmp_path / "kto.jsonl", [{"prompt": "p", "completion": "a", "label": label} for label in (True, 2)])
    with pytest.raises(DatasetError) as caught:
        _prepare(small, "unpaired", path=str(judged), format="unpaired_preference")
    assert caught.value.faults[0].where == "kto.jsonl:2"
    assert caught.value.faults[0].expected == "true or false in label"


def test_a_mixture_takes_its_weights_and_equal_rows_stay_on_one_side(small: ChatTokenizer, tmp_path: Path) -> None:
    first, second = (_write(tmp_path / f"{n}.jsonl", _texts(10, n)) for n in ("a", "b"))
    parts = [{"path": str(first), "weight": 2}, {"path": str(second), "count": 4}]
    prepared = _prepare(small, "preference", path=parts, eval_split=4)
    sides = (prepared.train_conversations, prepared.evaluation_conversations)
    learned, held = ({c.messages[0].content for c in side} for side in sides)
    assert not learned & held
    everything = Counter(c.messages[0].content[0] for side in sides for c in side)
    assert everything == {"a": 20, "b": 4}
    assert len(prepared.train) == 2 * len(prepared.train_conversations)


def test_prepared_twice_is_the_same_through_the_cache(
    small: ChatTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fastft.data.prepare._WORTH_KEEPING", 0.0)
    path = _write(tmp_path / "pairs.jsonl", _texts(30))
    first = _prepare(small, "preference", path=str(path), eval_split=5)
    assert list((tmp_path / "cache").rglob("audit.json"))
    again = _prepare(small, "preference", path=str(path), eval_split=5)
    assert again == first
    assert again.audit == first.audit
    labelled = _write(
        tmp_path / "kto.jsonl", [{"prompt": "p", "completion": f"a{n}", "label": n % 2} for n in range(9)]
    )
    judged = [_prepare(small, "unpaired", path=str(labelled)) for _ in range(2)]
    assert judged[0] == judged[1]
    assert [c.label for c in judged[1].train_conversations] == [bool(n % 2) for n in range(9)]
