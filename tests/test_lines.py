"""Lines that grow with a run: whole or not there."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fastft.errors import TrainingError
from fastft.lines import append_lines, keep_until, strict, unreadable_lines
from fastft.resume import find_checkpoint
from fastft.run import Run

_LIMITED = """
import resource, signal, sys
from pathlib import Path
from fastft.errors import TrainingError
from fastft.lines import append_lines
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # a file ends after 100 bytes, within a line
path, written = Path(sys.argv[1]), 0
try:
    for step in range(10):
        append_lines(path, {"step": step, "text": "ä" * 5}, {"step": step, "text": "second"})
        written += 1
except TrainingError as error:
    print(written, error.message)
"""


def test_a_line_that_does_not_fit_is_not_begun(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    done = subprocess.run([sys.executable, "-c", _LIMITED, str(path)], capture_output=True, text=True, check=True)
    written, _, said = done.stdout.partition(" ")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [step for step in range(int(written)) for _ in "12"]
    assert 0 < int(written) < 10
    assert f"{path} can't be written" in said


def test_a_full_disk_is_told_with_what_is_free() -> None:
    with pytest.raises(TrainingError, match=r"/dev/full can't be written: the disk is full, .*[MG]B are free"):
        append_lines(Path("/dev/full"), {"step": 1})


def test_what_comes_after_a_step_goes_and_a_line_cut_off_too(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_lines(path, *({"step": step, "text": "größer"} for step in range(1, 6)))
    with path.open("a") as file:
        file.write('{"step": 2, "te')
    keep_until(path, 3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    before = path.stat().st_ino
    keep_until(path, 3)
    assert path.stat().st_ino == before  # nothing to do, nothing written
    keep_until(tmp_path / "none", 3)
    assert not (tmp_path / "none").exists()


def test_lines_that_cannot_be_read_are_numbered_but_for_a_last_one_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = ['{"step": 1}', "", '{"step": ', '{"step": 2}', '{"loss": 1}', '{"step": Infinity}', '{"step": "x"}', "[1]",
             "[" * 100_000, '{"step": 3, "a": "é"}']  # fmt: skip
    path.write_bytes("\n".join(lines).encode() + b'\n{"step": 4, "a": "\xe9"}\n{"step": 4, "los')
    assert unreadable_lines(path) == [2, 3, 5, 6, 7, 8, 9, 11]
    keep_until(path, 3)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "a": "é"}\n'
    assert unreadable_lines(path) == []
    assert unreadable_lines(tmp_path / "none") == []
    (tmp_path / "folder").mkdir()
    assert unreadable_lines(tmp_path / "folder") == []


def test_a_run_that_goes_on_tells_the_lines_it_leaves_out(tmp_path: Path) -> None:
    run, said = Run(tmp_path), io.StringIO()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nx\n{"step": 2}\n[bold]\n')
    (tmp_path / "samples.jsonl").write_text('{"step": 1}\n\0\n')
    assert find_checkpoint(run, Console(file=said, width=300)) is None
    assert said.getvalue().splitlines() == [
        f"! {tmp_path}/metrics.jsonl: 2 unreadable lines are left out; the first is line 2",
        f"! {tmp_path}/samples.jsonl: 1 unreadable line is left out; the first is line 2",
    ]


def test_a_point_is_json_that_every_reader_takes() -> None:
    point = {"step": 1, "loss": float("nan"), "grad_norm": float("-inf"), "rate": 0.5, "name": "NaN", "of": None}
    assert strict(point) == {"step": 1, "loss": None, "grad_norm": None, "rate": 0.5, "name": "NaN", "of": None}
