"""The commands as a person meets them: what they print, how they exit, how long they take."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"


def fastft(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastft", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=300)


_COUNT_TO_TEN_MILLION = "n = 0\nfor i in range(10_000_000): n += i * i % 7"  # 0.7 s on an idle core


def cost(*arguments: str | Path) -> float:
    """CPU time of a command, in those of counting to ten million beside it: a machine may be slow, or busy.

    The least of three; bench/startup/commands.py measures the clock.
    """
    counting = [sys.executable, "-c", _COUNT_TO_TEN_MILLION]
    command = [sys.executable, "-m", "fastft", *map(str, arguments)]
    return min(_cpu_seconds(command) / _cpu_seconds(counting) for _ in range(3))


def _cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("command", ["train", "check", "export", "verify", "chat"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    shown = fastft(command, "--help").stdout
    assert "Example" in shown
    assert f"fastft {command} " in shown


def test_help_takes_a_blink() -> None:
    assert cost("--help") < 0.4


def test_check_of_the_quickstart_is_quick_and_imports_no_torch() -> None:
    assert cost("check", QUICKSTART) < 4
    program = (
        "import sys\n"
        "from fastft.checking import check\n"
        f"report = check({str(QUICKSTART)!r})\n"
        "assert report.plan.steps > 0\n"
        "loaded = {'torch', 'unsloth', 'trl', 'peft', 'bitsandbytes'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_check_prints_the_audit_as_json(tmp_path: Path) -> None:
    done = fastft("check", QUICKSTART, "--json", cwd=tmp_path)
    told = json.loads(done.stdout)
    assert told["data"]["rows"] == told["data"]["train"]["rows"] + told["data"]["evaluation"]["rows"]
    assert told["plan"]["steps"] > 0


def test_preview_and_dry_run_write_nothing(tmp_path: Path) -> None:
    shown = fastft("preview", QUICKSTART, "-n", "1", cwd=tmp_path)
    assert shown.returncode == 0
    assert "<|im_end|>" in shown.stdout
    assert fastft("train", QUICKSTART, "--dry-run", cwd=tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["training.learning_rat=1e-4"], "Did you mean learning_rate"),
        (["training.learning_rate=fast"], "training.learning_rate"),
        (["lora.r=0", "data.train_on=everything"], "data.train_on"),
        (["data.path=nowhere.jsonl"], "nowhere.jsonl"),
        (["model.model_name=./nowhere"], "nowhere"),
        (["nonsense"], "nonsense"),
    ],
)
def test_bad_overrides_are_one_message_and_exit_2(tmp_path: Path, overrides: list[str], named: str) -> None:
    done = fastft("train", QUICKSTART, *overrides, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert named in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["export", "verify", "chat"])
def test_a_folder_that_is_no_run_is_one_message(tmp_path: Path, command: str) -> None:
    done = fastft(command, tmp_path / "nothing", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "nothing" in done.stderr
    assert "Traceback" not in done.stderr


def test_traceback_shows_where_an_error_came_from(tmp_path: Path) -> None:
    done = fastft("--traceback", "check", tmp_path / "missing.yaml")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "missing.yaml" in done.stderr


def test_hostile_files_are_one_message_each_and_nothing_the_terminal_obeys(tmp_path: Path) -> None:
    """Through real processes; tests/fuzz has the many ways, by the functions below the commands."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    odd = tmp_path / "a\n\x1b]0;owned\x07.yaml"
    odd.write_text("model: \x07")
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("[1")
    (run / "manifest.json").write_text("[" * 100_000)
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\xff" * 100)
    calls: list[tuple[str | Path, ...]] = [
        ("check", tmp_path / "pipe.yaml"), ("check", "/dev/zero"), ("check", tmp_path / "loop.yaml"), ("check", odd),
        ("train", odd), ("check", "x" * 5000), ("verify", run), ("export", run), ("train", run, "--resume"),
        ("chat", run, "--seed", "1"), ("chat", tmp_path / "bad.gguf", "--seed", "1"),
    ]  # fmt: skip
    for call in calls:
        done = fastft(*call)
        told = done.stdout + done.stderr
        assert done.returncode == 2, (call, told)
        assert done.stderr.count("error: ") == 1, (call, told)
        assert "Traceback" not in told, (call, told)
        assert not set(told) & {"\x1b", "\x07"}, (call, told)


def test_what_nobody_foresaw_is_one_message_too(tmp_path: Path) -> None:
    script = (
        "import fastft.checking\n"
        "def check(*_, **__): raise KeyError('odd\x1b')\n"
        "fastft.checking.check = check\n"
        "from fastft.cli import main\n"
        "main()"
    )
    (tmp_path / "r.yaml").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", script, "check", str(tmp_path / "r.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: fastft failed with KeyError: 'odd\\x1b'\n")
    assert "--traceback" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_of_few_characters_is_no_reason_to_end(encoding: str) -> None:
    command = [sys.executable, "-m", "fastft", "check", str(QUICKSTART)]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    assert b"1,600 to train on, 100 held out" in done.stdout
