"""The real command, ended by signals in the midst of training: it goes on to the same bytes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from fastft import status
from fastft.checkpoints import step_of, whole_checkpoint

pytestmark = pytest.mark.slow

STEPS = 30


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopping")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Count to {n}."},
                {"role": "assistant", "content": f"{n} it is." * 9},
            ]
        }
        for n in range(60)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "model": {"model_name": "fastft/tiny", "max_seq_length": 256},
        "lora": {"r": 4},
        "data": {"path": str(folder / "rows.jsonl"), "eval_split": None},
        "training": {"max_steps": STEPS, "per_device_train_batch_size": 2, "save_steps": 7, "logging_steps": 1},
        "evaluation": {"samples": 0},
        "export": {"formats": []},
        "output_dir": str(folder / "run"),
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


def _command(recipe: Path, output: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "fastft", "train", str(recipe), "--output-dir", str(output), *more]


def _train(recipe: Path, output: Path, *more: str) -> str:
    wide = {**os.environ, "COLUMNS": "300"}  # or a long path is folded in the midst of a name
    return subprocess.run(_command(recipe, output, *more), capture_output=True, text=True, check=True, env=wide).stdout


def _points(run: Path) -> list[dict[str, float]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _started(recipe: Path, output: Path, step: int) -> subprocess.Popen[str]:
    """The command, once it has logged `step`."""
    process = subprocess.Popen(_command(recipe, output), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 240
    while not any(point["step"] >= step for point in _points(output)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    return process


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    _train(recipe, recipe.parent / "whole")
    return recipe.parent / "whole"


def _same(run: Path, whole: Path) -> None:
    weights = "adapter/adapter_model.safetensors"
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()
    told = ("step", "loss", "grad_norm", "learning_rate", "tokens", "supervised_tokens", "epoch")
    found, expected = ([{k: p.get(k) for k in told} for p in _points(each) if "loss" in p] for each in (run, whole))
    assert found == expected


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_a_checkpoint_and_it_goes_on_to_the_same_bytes(
    sent: signal.Signals, code: int, recipe: Path, whole: Path
) -> None:
    run = recipe.parent / sent.name
    process = _started(recipe, run, step=9)
    process.send_signal(sent)
    out, error = process.communicate(timeout=60)
    assert process.returncode == code, (out, error)
    assert "this step is finished and a checkpoint written" in out
    reached = _points(run)[-1]["step"]
    assert sorted(path.name for path in (run / "checkpoints").iterdir())[-1].startswith("checkpoint-")
    assert (run / "checkpoints" / f"checkpoint-{reached:.0f}" / "fastft_checkpoint.json").is_file()
    assert error.startswith("training stopped at step ")  # which is no error: it was asked for
    assert sent.name in error
    assert "--resume" in error
    said = _train(recipe, run)  # by itself: the recipe is the same
    assert "going on with" in said
    _same(run, whole)


def test_asked_twice_it_ends_at_once_and_its_history_tells_so(recipe: Path) -> None:
    run = recipe.parent / "asked-twice"
    process = _started(recipe, run, step=9)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=20)
    assert process.returncode in (130, 143), (out, error)
    assert "again: ended at once; it goes on from step " in out
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    assert (last["what"], last["process"], last["doing"]) == ("stopped", process.pid, "training")
    assert "the second signal: ended at once" in last["why"]
    assert status(run).state == "stopped"


def test_killed_at_once_it_goes_on_from_the_last_whole_checkpoint(recipe: Path, whole: Path) -> None:
    run = recipe.parent / "killed"
    process = _started(recipe, run, step=16)
    process.kill()
    process.communicate()
    newest = whole_checkpoint(run / "checkpoints")
    assert newest is not None
    assert (status(run).state, status(run).goes_on_from) == ("died", step_of(newest))
    (newest / "optimizer.pt").write_bytes((newest / "optimizer.pt").read_bytes()[:-9])
    assert 0 < status(run).goes_on_from < step_of(newest)
    said = _train(recipe, run)
    assert f"{newest.name} is damaged and passed over: optimizer.pt has" in " ".join(said.split())
    assert "going on from step" in said
    _same(run, whole)


def test_two_processes_never_train_into_one_directory(recipe: Path) -> None:
    run = recipe.parent / "twice"
    process = _started(recipe, run, step=2)
    second = subprocess.run([*_command(run, run)[:5], "--resume"], capture_output=True, text=True)
    again = subprocess.run(_command(recipe, run), capture_output=True, text=True)
    process.kill()
    process.communicate()
    assert again.returncode == 1
    assert "twice is being trained now by the same recipe: process" in " ".join(again.stderr.split())
    assert not list(run.parent.glob("twice-*"))
    assert second.returncode != 0
    assert "another process is training into" in second.stderr
    assert f"process {process.pid} on" in second.stderr


def test_a_new_run_begins_where_that_is_asked(recipe: Path) -> None:
    run = recipe.parent / "anew"
    process = _started(recipe, run, step=9)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    said = _train(recipe, run, "--new")
    assert "run directory" in said
    assert (recipe.parent / "anew-2" / "manifest.json").is_file()
    assert not (run / "manifest.json").exists()


def test_a_closed_terminal_ends_it_with_a_checkpoint(recipe: Path, whole: Path) -> None:
    """Every further word to the terminal is an error then, and none of them may lose the step."""
    run = recipe.parent / "closed"
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, _command(recipe, run))
    reader = threading.Thread(target=_read_until_closed, args=(terminal,))
    reader.start()
    end = time.monotonic() + 240
    while not any(point["step"] >= 9 for point in _points(run)):
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(pid, signal.SIGHUP)  # as closing the terminal does, which a thread that reads it would delay
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP
    reader.join()
    newest = whole_checkpoint(run / "checkpoints")
    assert newest is not None
    assert newest.name == f"checkpoint-{_points(run)[-1]['step']:.0f}"
    assert int(newest.name.rpartition("-")[2]) >= 9
    _train(recipe, run)
    _same(run, whole)


def _read_until_closed(terminal: int) -> None:
    with suppress(OSError):
        while os.read(terminal, 4096):
            pass


@pytest.mark.parametrize("where", ["a pipe nobody reads", "/dev/full"])
def test_what_nobody_hears_ends_nothing(where: str, recipe: Path, whole: Path) -> None:
    """As when `tee` or an SSH connection dies, or the disk of `> out.txt` is full."""
    run = recipe.parent / f"unheard-{len(where)}"
    command = _command(recipe, run, "export.formats=[adapter]")
    if where == "/dev/full":
        with Path(where).open("w") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
    else:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
    assert process.stderr is not None
    error = process.stderr.read()
    assert process.wait() == 0, error
    assert "Traceback" not in error
    said = error + (run / "train.log").read_text()
    why = "No space left on device" if where == "/dev/full" else "nobody reads it"
    assert f"what is said can't be written any more ({why}); the work goes on" in said
    assert status(run).state == "finished"
    assert (run / "exports" / "adapter" / "verification.json").is_file()
    _same(run, whole)
