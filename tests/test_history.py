"""When a run was begun, stopped and gone on with can be read in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fastft.errors import DatasetError, FastftError, ModelError, RecipeError, RefusedError, TrainingError
from fastft.heartbeat import FILE as HEARTBEAT
from fastft.heartbeat import alone_in_run
from fastft.history import FILE, History, history_of
from tests.test_resuming import STEPS, Case
from tests.warm_processes import warm_processes


def _trained(directory: Path, *, state: str = "training", step: int = 0, error: BaseException | None = None) -> None:
    """As a process that trains into `directory`, comes to `step` and ends so."""
    with alone_in_run(directory) as heartbeat, history_of(directory, heartbeat) as history:
        history.goes_on_from(0)
        heartbeat.beat(state, step)
        if error is not None:
            raise error


def _refused(directory: Path, error: FastftError) -> None:
    with alone_in_run(directory) as heartbeat, history_of(directory, heartbeat):
        raise error


def _lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / FILE).read_text().splitlines()]


def test_each_end_has_its_reason(tmp_path: Path) -> None:
    interrupt = KeyboardInterrupt()
    interrupt.exit_code = 143  # type: ignore[attr-defined]
    ends = [interrupt, KeyboardInterrupt(), TrainingError("the disk is full"), ValueError("what " * 400)]
    for step, error in enumerate(ends):
        with pytest.raises(type(error)):
            _trained(tmp_path, step=step, error=error)
    _trained(tmp_path, step=9)
    told = [line for line in _lines(tmp_path) if line["what"] != "began"]
    assert [(line["what"], line["step"], line.get("why"), line.get("doing")) for line in told] == [
        ("stopped", 0, "SIGTERM", "training"),
        ("stopped", 1, "SIGINT", "training"),
        ("stopped", 2, "the disk is full", "training"),
        ("stopped", 3, ("ValueError: " + "what " * 400)[:1000] + "…", "training"),
        ("finished", 9, None, None),
    ]
    assert {"time", "process", "host"} <= told[0].keys()


@pytest.mark.parametrize("refusal", [DatasetError, ModelError, RecipeError, RefusedError])
def test_one_that_was_refused_hides_no_end(refusal: type[FastftError], tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        _trained(tmp_path, step=5, error=TrainingError("SIGTERM"))
    with pytest.raises(refusal):
        _refused(tmp_path, refusal("the data is another"))
    with alone_in_run(tmp_path) as heartbeat, history_of(tmp_path, heartbeat) as history:
        assert history.last_end() == "stopped at step 5: SIGTERM"
    assert [line["what"] for line in _lines(tmp_path)] == ["began", "stopped", "refused", "finished"]


@pytest.mark.parametrize(("state", "told"), [("evaluating", True), ("exporting", True), ("stopped", False)])
def test_of_one_that_was_killed_the_next_one_tells(state: str, told: bool, tmp_path: Path) -> None:
    _trained(tmp_path, step=5)
    heartbeat = json.loads((tmp_path / HEARTBEAT).read_text())
    (tmp_path / HEARTBEAT).write_text(
        json.dumps({**heartbeat, "process": 999999, "state": state, "step": 7, "time": "then"})
    )
    (tmp_path / "metrics.jsonl").write_text('{"step": 8, "loss": 1.0}\n{"st')  # a heartbeat is seconds old
    _trained(tmp_path, step=9)
    died = [line for line in _lines(tmp_path) if line["what"] == "died"]
    assert [(line["step"], line["doing"], line["last_heard"]) for line in died] == [(8, state, "then")] * told
    assert [line["process"] for line in died] == [999999] * told  # not the one that tells of it


def test_one_that_said_how_it_ended_is_believed_before_its_heartbeat(tmp_path: Path) -> None:
    """A full disk may have left no room for the heartbeat, which then says what was before."""
    with pytest.raises(TrainingError):
        _trained(tmp_path, step=9, error=TrainingError("training stopped at step 10 of 24: the disk is full"))
    beat = json.loads((tmp_path / HEARTBEAT).read_text())
    (tmp_path / HEARTBEAT).write_text(json.dumps({**beat, "state": "training"}))
    _trained(tmp_path, step=11)
    assert [line["what"] for line in _lines(tmp_path)] == ["began", "stopped", "began", "finished"]


def test_a_heartbeat_is_written_over_where_there_is_no_room_beside_it(tmp_path: Path) -> None:
    with alone_in_run(tmp_path) as heartbeat:
        heartbeat.beat("training", 123456)
        (tmp_path / f".{HEARTBEAT}.partial-{os.getpid()}").mkdir()  # in the way of a new file
        heartbeat.beat("stopped", 7)
        (tmp_path / f".{HEARTBEAT}.partial-{os.getpid()}").rmdir()
        told = json.loads((tmp_path / HEARTBEAT).read_text())
        assert (told["state"], told["step"]) == ("stopped", 7)


def test_it_stays_small_and_forgives(tmp_path: Path) -> None:
    """However often a run is stopped; a line that was cut off, or a heartbeat of any content, ends nothing."""
    with alone_in_run(tmp_path) as heartbeat:
        history = History(tmp_path / FILE, heartbeat)
        for step in range(500):
            history.note("stopped", step, why="SIGTERM")
    lines = _lines(tmp_path)
    assert [line["step"] for line in lines] == [*range(20), *range(320, 500)]
    (tmp_path / FILE).write_text((tmp_path / FILE).read_text() + "3\n[]\n" + '{"time": "no')
    with (tmp_path / FILE).open("ab") as file:
        file.write(b"\xff\xfe\n")
    (tmp_path / HEARTBEAT).write_text('{"state": "training", "step": "seven"}')
    assert history.lines() == lines
    _trained(tmp_path, step=1)
    assert [line["what"] for line in history.lines()[-3:]] == ["stopped", "began", "finished"]


def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    for name in (".metrics.jsonl.partial-999999", ".heartbeat.json.partial-1", ".kept"):
        (tmp_path / name).write_text("half")
    _trained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {HEARTBEAT, FILE, ".heartbeat.json.partial-1", ".kept"}


@pytest.mark.slow
def test_a_run_says_that_it_was_stopped(tmp_path: Path) -> None:
    with warm_processes() as warm:
        case = Case(warm, tmp_path, "sft")
        run = case.stopped(("begin 3", "SIGTERM"), ("end 8", "SIGKILL"))
    assert "going on from step 5 (checkpoint-5); it died, last heard of at step " in " ".join(case.said.split())
    lines = _lines(run)
    told = [(line["what"], line["step"], line.get("why", "")) for line in lines if line["what"] != "died"]
    assert told == [
        ("began", 0, ""),
        ("stopped", 4, "SIGTERM"),
        ("went on", 4, ""),
        ("went on", 5, ""),
        ("trained", STEPS, ""),
        ("finished", STEPS, ""),
    ]
    assert lines[3]["what"] == "died"
    assert lines[3]["doing"] == "training"
    assert json.loads((run / "manifest.json").read_text())["history"] == lines[:-1]
    log = (run / "train.log").read_text()
    assert "went on after step 5; before, it died, last heard of at step" in log
    whole = [(line["what"], line["step"]) for line in _lines(case.whole)]
    assert whole == [("began", 0), ("trained", STEPS), ("finished", STEPS)]
