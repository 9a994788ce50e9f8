"""The whole data stage: every row accounted for, splits that are disjoint and repeatable, an audit that adds up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fastft.data.conversation import IGNORE, Conversation, Message
from fastft.data.prepare import PreparedData, prepare_data
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import DatasetError
from fastft.model_files import resolve_model
from fastft.recipe.schema import DataSection


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def pairs(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(start, start + count)]


def prepare(path: Path, tokenizer: ChatTokenizer, max_length: int = 512, seed: int = 7, **data: Any) -> PreparedData:
    section = DataSection.model_validate({"path": str(path), **data})
    return prepare_data(section, tokenizer, max_length=max_length, seed=seed)


def adds_up(data: PreparedData) -> None:
    """The invariants of every preparation."""
    audit = data.audit
    assert audit.rows == audit.train.rows + audit.evaluation.rows + audit.lost_rows
    for examples, part in ((data.train, audit.train), (data.evaluation, audit.evaluation)):
        assert part.examples == len(examples)
        assert part.tokens == sum(len(e.input_ids) for e in examples)
        assert part.supervised == sum(1 for e in examples for label in e.labels if label != IGNORE)
        assert part.truncated_tokens == sum(e.truncated for e in examples)
        assert all(len(e.input_ids) == len(e.labels) <= audit.max_length for e in examples)
        assert all(e.supervised > 0 and e.labels[0] == IGNORE for e in examples)
    json.dumps(audit.as_dict())
    Console(quiet=True).print(audit.table())


@pytest.mark.parametrize(
    ("file", "rows", "found"),
    [
        ("alpaca_en_demo.json", 999, "alpaca"),
        ("glaive_toolcall_en_demo.json", 300, "sharegpt"),
        ("c4_demo.jsonl", 300, "text"),
    ],
)
def test_public_sets_are_accounted_for(
    tokenizer: ChatTokenizer, shared: Path, file: str, rows: int, found: str
) -> None:
    data = prepare(shared / "data" / file, tokenizer, max_length=16_384)
    adds_up(data)
    assert (data.audit.rows, data.audit.format, data.audit.lost_rows) == (rows, found, 0)
    assert data.audit.train.truncated_examples == 0
    short = prepare(shared / "data" / file, tokenizer, max_length=256, eval_split=0.1)
    adds_up(short)
    assert short.audit.train.truncated_examples > 0
    assert any("cut off at max_length 256" in warning for warning in short.audit.warnings)


@pytest.mark.parametrize("file", ["dpo_en_demo.json", "kto_en_demo.json"])
def test_preference_sets_are_refused(qwen: ChatTokenizer, shared: Path, file: str) -> None:
    with pytest.raises(DatasetError, match="does not tell good answers from bad ones"):
        prepare(shared / "data" / file, qwen)


@pytest.mark.parametrize(("wanted", "held_out"), [(0.1, 10), (0.001, 1), (25, 25), (1, 1), (0.99, 99)])
def test_shares_and_counts_are_held_out(qwen: ChatTokenizer, tmp_path: Path, wanted: float, held_out: int) -> None:
    path = write(tmp_path / "d.jsonl", pairs(100))
    data = prepare(path, qwen, eval_split=wanted)
    adds_up(data)
    assert (len(data.train), len(data.evaluation)) == (100 - held_out, held_out)
    places = [e.place for e in data.train], [e.place for e in data.evaluation]
    assert not set(places[0]) & set(places[1])
    assert len(set(places[0]) | set(places[1])) == 100
    lines = [int(place.rpartition(":")[2]) for place in places[0]]
    assert lines == sorted(lines)
    assert [c.place for c in data.evaluation_conversations] == places[1]


def test_the_split_depends_on_the_seed_alone(qwen: ChatTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", pairs(100))
    first, again, other = (prepare(path, qwen, seed=seed, eval_split=10) for seed in (7, 7, 8))
    assert (first.train, first.evaluation) == (again.train, again.evaluation)
    assert [e.place for e in first.evaluation] != [e.place for e in other.evaluation]


@pytest.mark.parametrize("wanted", [100, 101, 10**9])
def test_holding_out_everything_is_an_error(qwen: ChatTokenizer, tmp_path: Path, wanted: int) -> None:
    path = write(tmp_path / "d.jsonl", pairs(100))
    with pytest.raises(DatasetError, match=r"d\.jsonl: data\.eval_split holds out .* of 100 usable rows"):
        prepare(path, qwen, eval_split=wanted)


def test_a_file_of_its_own_is_held_out(qwen: ChatTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", pairs(5))
    other = write(tmp_path / "val.jsonl", pairs(3, start=4))
    data = prepare(path, qwen, eval_split=str(other))
    adds_up(data)
    assert [e.place for e in data.evaluation] == ["val.jsonl:1", "val.jsonl:2", "val.jsonl:3"]
    assert (len(data.train), data.audit.rows) == (5, 8)
    assert data.audit.leaked.places == ("val.jsonl:1",)
    assert any("also trained on" in warning and "val.jsonl:1" in warning for warning in data.audit.warnings)
    with pytest.raises(DatasetError, match=r"none\.jsonl: no such file"):
        prepare(path, qwen, eval_split=str(tmp_path / "none.jsonl"))
    with pytest.raises(DatasetError, match=r"data\.split is 'validation', but .* is a local file"):
        prepare(path, qwen, eval_split="validation")


def test_the_fingerprint_is_of_the_content(qwen: ChatTokenizer, llama: ChatTokenizer, tmp_path: Path) -> None:
    rows = pairs(5)
    first = prepare(write(tmp_path / "a.jsonl", rows), qwen).audit
    moved = prepare(write(tmp_path / "b.jsonl", rows), qwen).audit
    as_messages = [
        {"messages": [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["completion"]}]}
        for r in rows
    ]
    (tmp_path / "c.json").write_text(json.dumps(as_messages))
    reshaped = prepare(tmp_path / "c.json", qwen).audit
    assert first.fingerprint == moved.fingerprint == reshaped.fingerprint
    assert first.examples_sha256 == moved.examples_sha256 == reshaped.examples_sha256
    other_model = prepare(tmp_path / "a.jsonl", llama).audit
    assert other_model.fingerprint == first.fingerprint
    assert other_model.examples_sha256 != first.examples_sha256
    rows[3]["completion"] = "It is 3"
    changed = prepare(write(tmp_path / "a.jsonl", rows), qwen).audit
    assert changed.fingerprint != first.fingerprint
    assert changed.examples_sha256 != first.examples_sha256


def test_rows_left_out_are_counted_by_reason_with_places(qwen: ChatTokenizer, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"messages": [_user("a"), _assistant("b")]} for _ in range(3)]
    rows += [{"messages": [_user(f"{n}"), _assistant(" ")]} for n in range(5)]
    rows += [{"messages": [_user("x <|im_end|>"), _assistant("b")]}]
    rows += [{"messages": [_user("a"), _assistant("b") | {"weight": 0}]}]
    rows += [{"messages": [_user("a"), _assistant("b")], "images": ["cat.png"], "id": 7}]
    rows += [{"messages": [_user("u"), _assistant("v"), _user("w")], "id": 8, "source": ""}]
    data = prepare(write(tmp_path / "d.jsonl", rows), qwen)
    adds_up(data)
    audit = data.audit
    assert {reason: (t.count, t.places) for reason, t in audit.dropped.items()} == {
        "an assistant turn is empty": (5, ("d.jsonl:4", "d.jsonl:5", "d.jsonl:6")),
        "a message holds a control token of the model as text": (1, ("d.jsonl:9",)),
        "every turn to learn has weight 0": (1, ("d.jsonl:10",)),
        "the row has media, which a text model can't see": (1, ("d.jsonl:11",)),
    }
    assert {note: (t.count, t.places) for note, t in audit.notes.items()} == {
        "the column 'id' is not used": (2, ("d.jsonl:11", "d.jsonl:12")),
        "rows whose turns after the last answer are not used": (1, ("d.jsonl:12",)),
    }
    assert (audit.rows, audit.lost_rows, audit.duplicates) == (12, 8, 2)
    assert sum(warning.startswith("left out because") for warning in audit.warnings) == 4
    assert any(warning.startswith("2 of 4 training rows repeat") for warning in audit.warnings)
    assert "d.jsonl (messages): 12 rows, 4 to train on, 8 left out" in audit.summary()


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def test_of_very_many_unused_columns_some_are_named_in_their_order(qwen: ChatTokenizer, tmp_path: Path) -> None:
    rows = [{**row, **{f"{n}{'x' * 99}": 1 for n in range(30)}} for row in pairs(3)]
    notes = list(prepare(write(tmp_path / "d.jsonl", rows), qwen).audit.notes)
    named = [note for note in notes if note.startswith("the column ")]
    assert [note.partition("x")[0] for note in named[:20]] == [f"the column '{n}" for n in range(20)]
    assert (len(named), max(map(len, named)) < 100) == (20, True)
    assert "further columns are not used" in notes


def test_half_a_character_in_a_column_s_name_is_kept(tmp_path: Path) -> None:
    """JSON can escape it, and Arrow reads no text that has it."""
    path = tmp_path / "d.jsonl"
    path.write_text('{"prompt": "Snow?", "\\ud800": "White"}\n')
    tokenizer = ChatTokenizer.load(resolve_model("fastft/tiny", weights=False))
    data = prepare_data(DataSection(path=str(path)), tokenizer, max_length=64, seed=1, kind="prompt")
    (conversation,) = data.train_conversations
    assert conversation.origin == {"further": {"\ud800": "White"}}


def test_columns_are_mapped_before_the_format_is_told(qwen: ChatTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"q": "a", "answer": "b"}])
    data = prepare(path, qwen, columns={"prompt": "q", "completion": "answer"})
    adds_up(data)
    assert data.audit.format == "prompt_completion"
    straight = prepare(write(tmp_path / "e.jsonl", [{"prompt": "a", "completion": "b"}]), qwen)
    assert data.train[0].input_ids == straight.train[0].input_ids


def test_nothing_left_after_truncation_says_why(qwen: ChatTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", pairs(4))
    with pytest.raises(DatasetError) as caught:
        prepare(path, qwen, max_length=8)
    text = str(caught.value)
    assert "d.jsonl: nothing is left to train on: all 4 rows were left out" in text
    assert "d.jsonl:1: nothing to learn within max_length (4 rows): " in text
    with pytest.raises(DatasetError, match="longer than max_length"):
        prepare(path, qwen, max_length=8, truncation="drop")


def test_an_evaluation_set_of_which_nothing_is_left_is_an_error(qwen: ChatTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", pairs(4))
    other = write(tmp_path / "v.jsonl", [{"prompt": "a", "completion": ""}])
    with pytest.raises(DatasetError, match=r"v\.jsonl: nothing is left to evaluate on"):
        prepare(path, qwen, eval_split=str(other))


# --- streaming, skipping, deduplicating, keeping ---


def test_broken_rows_are_passed_over_on_request_counted_and_listed(qwen: ChatTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", pairs(4))
    path.write_text(path.read_text() + '{oops\n{"messages": 3}\n')
    with pytest.raises(DatasetError):
        prepare(path, qwen)
    audit = prepare(path, qwen, on_error="skip").audit
    assert (audit.rows, audit.train.rows, audit.lost_rows) == (6, 4, 2)
    assert [text.split(": ")[0] for text in audit.broken] == ["d.jsonl:5", "d.jsonl:6"]
    assert "broken rows" in dict(audit._lines())
    first, *rest = audit.warnings[0].splitlines()
    assert first == "2 broken rows are passed over (all of them in --json):"
    assert rest == [f"    {broken}" for broken in audit.broken]


def test_fewer_held_out_than_asked_for_is_told(qwen: ChatTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [*pairs(20), *({"prompt": f"{n}?", "completion": ""} for n in range(20))])
    audit = prepare(path, qwen, eval_split=20).audit
    assert 0 < audit.evaluation.rows < 20
    told = f"data.eval_split holds out 20 rows and only {audit.evaluation.rows} can be evaluated on: "
    assert told + "the others are among those left out" in audit.warnings
    assert not any("data.eval_split" in warning for warning in prepare(path, qwen).audit.warnings)
    whole = write(tmp_path / "w.jsonl", pairs(20))
    assert prepare(whole, qwen, eval_split=4).audit.warnings == ()


def test_held_out_rows_that_are_cut_are_told(qwen: ChatTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", pairs(4))
    other = write(tmp_path / "v.jsonl", [*pairs(1, start=9), {"prompt": "All?", "completion": "every one " * 200}])
    (warning,) = prepare(path, qwen, max_length=64, eval_split=str(other)).audit.warnings
    assert "of the supervised tokens of the held-out rows are cut off at max_length 64; the longest example" in warning


def test_one_is_no_plural(qwen: ChatTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", pairs(1))
    audit = prepare(path, qwen).audit
    assert dict(audit._lines())["train"] == "1 row, 1 example"
    assert audit.summary().startswith("d.jsonl (prompt_completion): 1 row, 1 to train on; ")
    path.write_text(path.read_text() + "{oops\n")
    first, _ = prepare(path, qwen, on_error="skip").audit.warnings[0].splitlines()
    assert first == "1 broken row is passed over (all of them in --json):"


def test_repeated_rows_are_left_out_on_request(qwen: ChatTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [*pairs(3), *pairs(2)])
    assert prepare(path, qwen).audit.duplicates == 2
    data = prepare(path, qwen, deduplicate=True)
    adds_up(data)
    assert (len(data.train), data.audit.duplicates) == (3, 0)
    assert data.audit.dropped["repeats an earlier row"].places == ("d.jsonl:4", "d.jsonl:5")


def test_a_row_of_another_format_far_down_is_noticed(qwen: ChatTokenizer, tmp_path: Path) -> None:
    rows = [*pairs(1200), {"prompt": "p", "chosen": "a", "rejected": "b"}]
    with pytest.raises(DatasetError, match=r"d\.jsonl:1201"):
        prepare(write(tmp_path / "d.jsonl", rows), qwen)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, into which everything goes."""
    import fastft.data.prepare

    monkeypatch.setenv("FASTFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fastft.data.prepare, "_WORTH_KEEPING", 0.0)
    return tmp_path / "cache"


def test_unchanged_data_is_found_again_and_equal(qwen: ChatTokenizer, tmp_path: Path, kept: Path) -> None:
    path = write(tmp_path / "d.jsonl", pairs(50))
    first = prepare(path, qwen, eval_split=5)
    (entry,) = kept.iterdir()
    again = prepare(path, qwen, eval_split=5)
    assert [e.name for e in kept.iterdir()] == [entry.name]
    assert again == first
    assert again.train.lengths() == first.train.lengths()
    assert again.audit == first.audit


@pytest.mark.parametrize("file", ["examples.arrow", "conversations.arrow", "train.npy", "audit.json", "sha256.json"])
def test_a_damaged_entry_is_made_anew(
    qwen: ChatTokenizer, tmp_path: Path, kept: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "d.jsonl", pairs(50))
    first = prepare(path, qwen, eval_split=5)
    (entry,) = kept.iterdir()
    data = bytearray((entry / file).read_bytes())
    data[len(data) // 2] ^= 1
    (entry / file).write_bytes(data)
    assert prepare(path, qwen, eval_split=5) == first
    assert "is damaged, so it is prepared again" in caplog.text
    assert prepare(path, qwen, eval_split=5) == first
    assert (entry / file).read_bytes() != bytes(data)


@pytest.mark.parametrize("change", ["rows", "seed", "max_length", "option", "template"])
def test_whatever_is_changed_is_prepared_anew(qwen: ChatTokenizer, tmp_path: Path, kept: Path, change: str) -> None:
    path = write(tmp_path / "d.jsonl", pairs(20))
    prepare(path, qwen, eval_split=5)
    if change == "rows":
        write(path, pairs(21))
    elif change == "template":
        qwen = ChatTokenizer.load(qwen.folder, "chatml")
    options: dict[str, dict[str, Any]] = {
        "seed": {"seed": 8}, "max_length": {"max_length": 100}, "option": {"train_on": "last"}
    }  # fmt: skip
    prepare(path, qwen, eval_split=5, **options.get(change, {}))
    assert len(list(kept.iterdir())) == 2


def test_many_rows_go_through_a_file_and_read_the_same(
    qwen: ChatTokenizer, tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fastft.data.store

    path = write(tmp_path / "d.jsonl", pairs(2000))
    whole = prepare(path, qwen, eval_split=0.1)
    monkeypatch.setattr(fastft.data.store, "_SPILL", 10_000)
    spilled = prepare(path, qwen, eval_split=0.1, on_error="skip")  # another option, so that it is made anew
    assert (spilled.train, spilled.evaluation) == (whole.train, whole.evaluation)
    assert spilled.evaluation_conversations == whole.evaluation_conversations
    assert not [e for e in kept.iterdir() if e.name.startswith(".")]
    assert spilled.train.dataset()["input_ids"][7] == whole.train[7].input_ids


def test_a_full_disk_is_told_with_what_is_free_and_another_place(monkeypatch: pytest.MonkeyPatch) -> None:
    import fastft.data.store
    from fastft.data.conversation import Example
    from fastft.data.store import TableWriter, example_columns, example_schema

    def filled(spill: int) -> None:
        monkeypatch.setattr(fastft.data.store, "_SPILL", spill)
        writer = TableWriter(Path("/dev/full"))
        for n in range(2000):
            writer.add(example_columns([Example([n] * 50, [n] * 50, "rows.jsonl:1")]))
        writer._spill()
        writer.finish(example_schema())

    for spill in (1, 1 << 30):
        with pytest.raises(DatasetError, match=r"/dev/full can't be written: the disk is full, .* free") as caught:
            filled(spill)
        assert "FASTFT_CACHE" in caught.value.hint


def test_conversations_come_back_as_they_were() -> None:
    from fastft.data.store import decode, encode

    call = {"type": "function", "function": {"name": "f", "arguments": {"x": [1, None, "é"]}}}
    messages = (
        Message("system", "s"),
        Message("assistant", "", tool_calls=(call,), reasoning_content="why", weight=0.0),
        Message("tool", "{}", name="f", tool_call_id="1"),
    )
    conversation = Conversation(messages, "a:1", tools=({"name": "f"},))
    assert decode(encode(conversation), "a:1") == conversation
    assert decode(encode(Conversation((), "a:2", "text \u2028")), "a:2") == Conversation((), "a:2", "text \u2028")
