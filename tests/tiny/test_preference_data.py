"""The packaged preference data is what its script writes, and nothing held out is in a training file."""

from __future__ import annotations

import json
from pathlib import Path

from fastft.tiny import preference_data


def test_the_files_are_what_the_script_writes(tmp_path: Path) -> None:
    preference_data.write(tmp_path)
    names = {f"{kind}_tiny{end}.jsonl" for kind in ("preference", "kto") for end in ("", "_heldout")}
    assert {path.name for path in tmp_path.iterdir()} == names
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (preference_data.PACKAGED / path.name).read_bytes(), path.name


def test_questions_are_asked_once_and_the_held_out_ones_never_in_training() -> None:
    asked = {
        split: [choice.question for choice in preference_data.choices(split)] for split in preference_data.QUESTIONS
    }
    assert {split: len(set(questions)) for split, questions in asked.items()} == {"train": 400, "heldout": 60}
    assert not set(asked["train"]) & set(asked["heldout"])


def test_both_answers_say_the_same_and_labels_are_even() -> None:
    for choice in preference_data.choices("train"):
        assert choice.chosen in choice.rejected
        assert choice.chosen != choice.rejected
    rows = (preference_data.PACKAGED / "kto_tiny.jsonl").read_text().splitlines()
    assert sum(json.loads(row)["label"] for row in rows) == 200
