"""`fastft status` tells a living run from a dead one, and from where a dead one goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fastft import status
from fastft.cli import main
from fastft.errors import ModelError, TrainingError
from fastft.heartbeat import FILE as HEARTBEAT
from fastft.heartbeat import alone_in_run
from fastft.history import history_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("method: sft\n")
    return tmp_path / "run"


def _trained(run: Path, step: int, error: BaseException | None = None) -> None:
    with alone_in_run(run) as heartbeat, history_of(run, heartbeat) as history:
        history.goes_on_from(0)
        heartbeat.steps = 20
        heartbeat.beat("training", step)
        if error is not None:
            raise error


def _beat(run: Path, **facts: Any) -> None:
    heartbeat = json.loads((run / HEARTBEAT).read_text())
    (run / HEARTBEAT).write_text(json.dumps({**heartbeat, **facts}))


def test_of_a_run_that_never_began(run: Path) -> None:
    told = status(run)
    assert (told.state, told.step, told.steps, told.loss, told.history) == ("new", 0, 0, None, ())


def test_a_living_process_is_told_with_its_step_and_last_loss(run: Path) -> None:
    whole = '{"step": 6, "loss": 1.5}\n{"step": 7, "loss": 0.25}\n{"step": 7, "eval_loss": 9.0}\n'
    (run / "metrics.jsonl").write_text(whole + '{"step": 8, "loss": 0.')  # as it is written at this moment
    with alone_in_run(run) as heartbeat:
        heartbeat.steps = 20
        heartbeat.beat("training", 7)
        told = status(run)
    assert (told.state, told.step, told.steps, told.loss) == ("running", 7, 20, 0.25)
    assert "training, step 7 of 20" in told.told


def test_a_process_without_an_end_died(run: Path) -> None:
    _trained(run, 9)
    _beat(run, process=999_999, state="evaluating", step=8)
    told = status(run)
    assert (told.state, told.step) == ("died", 8)
    assert "process 999999" in told.told
    assert "evaluating, step 8 of 20" in told.told


def test_one_that_ended_itself_tells_why(run: Path) -> None:
    with pytest.raises(TrainingError):
        _trained(run, 5, TrainingError("the disk is full"))
    told = status(run)
    assert (told.state, told.told) == ("stopped", "it stopped at step 5: the disk is full")
    assert [line["what"] for line in told.history] == ["began", "stopped"]


def test_exports_that_are_missing_and_an_end(run: Path) -> None:
    _trained(run, 20)
    (run / "manifest.json").write_text("{}")
    assert status(run).state == "finished"
    _beat(run, state="stopped")
    assert status(run).state == "trained"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no run directory"):
        status(tmp_path)


@pytest.mark.parametrize(
    "spoiled",
    [
        {"heartbeat.json": "{", "history.jsonl": "[]\n\x00", "metrics.jsonl": '{"loss": "\x1b[2J"}\n[1]\n'},
        {"heartbeat.json": '{"state": {}, "step": "\x1b[31m"}', "history.jsonl": '{"time": 1, "what": {}, "step": []}'},
        {"history.jsonl": '{"time": "\x1b[2J", "what": "died", "step": "\x07", "why": ["\x1b]0;x\x07"]}\n'},
    ],
)
def test_spoiled_files_are_told_as_far_as_they_go(run: Path, spoiled: Mapping[str, str]) -> None:
    for name, text in spoiled.items():
        (run / name).write_text(text)
    done = CliRunner().invoke(main, ["status", str(run)])
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    assert "\x07" not in done.output
    assert json.loads(CliRunner().invoke(main, ["status", str(run), "--json"]).output)["run"] == str(run)


def test_the_command_says_what_to_do_next(run: Path) -> None:
    with pytest.raises(TrainingError):
        _trained(run, 5, TrainingError("the disk is full"))
    (run / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    said = " ".join(CliRunner().invoke(main, ["status", str(run)]).output.split())
    assert "stopped: it stopped at step 5: the disk is full" in said
    assert "step 5 of 20" in said
    assert "goes on from the first step" in said
    assert "is damaged and passed over: fastft_checkpoint.json is missing" in said
    assert f"next put a checkpoint back as it was, or begin anew: fastft train {run}/recipe.yaml --new" in said
    shutil.rmtree(run / "checkpoints")
    said = " ".join(CliRunner().invoke(main, ["status", str(run)]).output.split())
    assert f"next fastft train {run} --resume" in said
