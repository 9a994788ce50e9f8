"""The world's text: the same from the same seed, one answer to a question, no leak between splits."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from fastft.tiny import quickstart_data
from fastft.tiny.questions import FACTS
from fastft.tiny.skills import SKILLS, conversation
from fastft.tiny.words import RESIDENTS, TOWNS
from fastft.tiny.world import NOTE_TEMPLATES, SHARES, Draw, Messages, Record, World, note, split_of

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def drawn(split: str, count: int, seed: int = 0) -> list[Messages]:
    draw = Draw(World.from_seed(0), split, Random(seed))
    return [conversation(draw)[1] for _ in range(count)]


def test_same_seed_same_world_and_text() -> None:
    assert World.from_seed(3) == World.from_seed(3)
    assert World.from_seed(3) != World.from_seed(4)
    assert drawn("train", 50) == drawn("train", 50)
    assert drawn("train", 50) != drawn("train", 50, seed=1)


PINNED = ["train", "train", "quickstart", "heldout", "train", "heldout"]


def test_split_is_pinned() -> None:
    # A change here moves held-out records into the training text of a model that is already built.
    record = Record("Ana", "Oakdale", 3, "red", "boat")
    assert [split_of(key) for key in (record, *range(5))] == PINNED


def test_split_shares() -> None:
    found = Counter(split_of(i) for i in range(20_000))
    for name, share in SHARES:
        assert abs(found[name] / 200 - share) < 1


def test_no_conversation_is_in_train_and_heldout() -> None:
    train = {json.dumps(messages) for messages in drawn("train", 30_000)}
    held = {json.dumps(messages) for messages in drawn("heldout", 2_000)}
    assert not train & held


def test_every_fact_is_in_the_training_text() -> None:
    for attribute, (wordings, _) in FACTS.items():
        for subject in TOWNS if attribute in ("made", "mayor") else RESIDENTS:
            assert "train" in {split_of((attribute, subject, wording)) for wording in wordings}


@pytest.mark.parametrize("skill", SKILLS)
def test_every_skill_has_heldout_conversations(skill: str) -> None:
    draw = Draw(World.from_seed(0), "heldout", Random(0))
    for _ in range(20):
        messages = SKILLS[skill][0](draw)
        roles = [message["role"] for message in messages if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(message["content"].strip() == message["content"] != "" for message in messages)


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("template", NOTE_TEMPLATES)
def test_every_note_tells_the_whole_record(template: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastft.tiny.world.NOTE_TEMPLATES", (template,))
    record = Record("Ana", "Oakdale", count, "red", "knife")
    text, written = note(record, Random(0))
    assert written in ({"1", "one"} if count == 1 else {"7", "seven"})
    things = f"{written} red {'knife' if count == 1 else 'knives'}"
    assert things in text or things.capitalize() in text
    assert "Ana" in text
    assert "Oakdale" in text


def test_shipped_quickstart_is_what_its_generator_yields(tmp_path: Path) -> None:
    quickstart_data.write(tmp_path)
    for split in quickstart_data.ROWS:
        shipped = RECIPES / "data" / f"{split}.jsonl"
        assert shipped.read_bytes() == (tmp_path / f"{split}.jsonl").read_bytes()


def test_quickstart_records_are_disjoint() -> None:
    answers = {
        split: [row[1]["content"] for row in quickstart_data.rows(split) if "Write as JSON" in row[0]["content"]]
        for split in quickstart_data.ROWS
    }
    assert {split: len(found) for split, found in answers.items()} == quickstart_data.ROWS
    assert all(len(set(found)) == len(found) for found in answers.values())
    assert not set(answers["quickstart"]) & set(answers["quickstart_heldout"])


def test_pretraining_never_sees_the_quickstart_task() -> None:
    texts = [message["content"] for messages in drawn("train", 20_000) for message in messages]
    assert not [text for text in texts if '"name": "' in text and '"town": "' in text]
    assert not [text for text in texts if "Write as JSON" in text]
