"""The commands as a person meets them: what they print, how they exit, how long they take."""

from __future__ import annotations

import json
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


def cpu_seconds(*arguments: str | Path) -> float:
    """CPU time of a command, the least of three calls; bench/startup/commands.py measures the clock."""
    least = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert fastft(*arguments).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return least


@pytest.mark.parametrize("command", ["train", "check", "export", "verify", "chat"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    shown = fastft(command, "--help").stdout
    assert "Example" in shown
    assert f"fastft {command} " in shown


def test_help_takes_a_blink() -> None:
    assert cpu_seconds("--help") < 0.3


def test_check_of_the_quickstart_is_quick_and_imports_no_torch() -> None:
    assert cpu_seconds("check", QUICKSTART) < 3
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
