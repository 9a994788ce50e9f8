from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastft.errors import ModelError, TrainingError
from fastft.run import Run


def test_a_name_that_is_taken_gets_a_number_and_nothing_is_touched(tmp_path: Path) -> None:
    taken = tmp_path / "run"
    taken.mkdir()
    (taken / "precious.txt").write_text("mine")
    first = Run.create(taken, "a: 1\n")
    second = Run.create(taken, "a: 2\n")
    assert (first.name, second.name) == ("run-2", "run-3")
    assert (taken / "precious.txt").read_text() == "mine"
    assert [path.name for path in taken.iterdir()] == ["precious.txt"]
    assert first.recipe_path.read_text() == "a: 1\n"


def test_an_empty_folder_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert Run.create(tmp_path / "run", "").name == "run"


def test_a_file_in_the_way_is_stepped_over(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    assert Run.create(tmp_path / "run", "").name == "run-2"


def test_open_names_the_runs_nearby(tmp_path: Path) -> None:
    Run.create(tmp_path / "first", "")
    with pytest.raises(ModelError, match=r"is no run directory") as caught:
        Run.open(tmp_path / "frist")
    assert "first" in caught.value.hint


def test_unfinished_finds_the_newest_without_a_manifest(tmp_path: Path) -> None:
    first, second = (Run.create(tmp_path / "run", "") for _ in range(2))
    assert Run.unfinished(tmp_path / "run") == second
    second.write_manifest({"model": {}})
    assert Run.unfinished(tmp_path / "run") == first
    first.write_manifest({})
    with pytest.raises(TrainingError, match="nothing to resume"):
        Run.unfinished(tmp_path / "run")


def test_the_manifest_of_an_unfinished_run_is_an_error_that_says_how_to_go_on(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "")
    with pytest.raises(ModelError, match="has not finished training") as caught:
        run.manifest()
    assert "--resume" in caught.value.hint
    manifest = {"model": {"model_name": "é", "revision": None, "base": {"model_name": "é"}}, "files": {}}
    run.write_manifest(manifest)
    assert run.manifest() == manifest
    assert [path.name for path in run.directory.iterdir() if path.name.startswith(".")] == []


def test_metrics_are_read_back(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "")
    assert run.metrics() == []
    run.metrics_path.write_text(json.dumps({"step": 1}) + "\n" + json.dumps({"step": 2}) + "\n")
    assert [point["step"] for point in run.metrics()] == [1, 2]


@pytest.mark.parametrize(
    ("text", "fault"), [("{", "can't be read"), ('{"model": 3}', "can't be read"), ('{"model": {}}', "lacks model")]
)
def test_a_damaged_manifest_is_told(tmp_path: Path, text: str, fault: str) -> None:
    run = Run.create(tmp_path / "run", "")
    run.manifest_path.write_text(text)
    with pytest.raises(ModelError, match=fault):
        run.manifest()


def test_the_next_directory_is_the_one_that_create_makes(tmp_path: Path) -> None:
    for name in ("run", "run-2", "run-3"):
        assert Run.next_directory(tmp_path / "run") == tmp_path / name
        assert Run.create(tmp_path / "run", "").directory == tmp_path / name
