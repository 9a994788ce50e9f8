"""Lines that grow with a run: whole or not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastft.errors import TrainingError
from fastft.lines import append_lines, keep_until

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
