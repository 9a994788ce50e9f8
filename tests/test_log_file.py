"""train.log: bounded, without endless repetitions, and never a reason for a run to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastft.log_file import open_log, shorten


def test_what_is_said_is_written(tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as log:
        print("one", "two", file=log)
        print(file=log)
        log.write("begun")
        log.write(" and ended\n")
        log.write("no end")
    assert (tmp_path / "log").read_text() == "one two\n\nbegun and ended\nno end"


def test_it_is_appended_to(tmp_path: Path) -> None:
    for word in ("first", "second"):
        with open_log(tmp_path / "log") as log:
            print(word, file=log)
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


def test_a_line_said_again_and_again_is_counted(tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as log:
        for step in range(1200):
            print("a warning", file=log)
            print("step", step, file=log)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line for line in lines if line.startswith("a warning")] == [
        *["a warning"] * 20,
        "a warning [100 times]",
        "a warning [1,000 times]",
    ]
    assert len([line for line in lines if line.startswith("step")]) == 1200


def test_its_middle_goes_when_it_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {n}\n" for n in range(10_000)))
    with path.open("ab+") as file:
        shorten(file.fileno(), 20_000)
    lines = path.read_text().splitlines()
    assert lines[0] == "line 0"
    assert lines[-1] == "line 9999"
    assert path.stat().st_size < 10_200
    assert any("bytes were left out here" in line for line in lines)
    assert all(line.startswith(("line ", "…")) or not line for line in lines)  # none was cut


def test_who_has_it_open_goes_on_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("ab", buffering=0) as other, open_log(path, 100_000) as log:
        for n in range(3_000):
            print("a line of a hundred letters " + "x" * 72, n, file=log)
            if n % 500 == 0:
                other.write(b"a child\n")
        other.write(b"the last words of a child\n")
    assert path.stat().st_size <= 100_200
    assert path.read_bytes().endswith(b"the last words of a child\n")
    assert path.read_bytes().startswith(b"a line of a hundred letters")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_no_error() -> None:
    with open_log(Path("/dev/full")) as log:
        for _ in range(1000):
            print("what can't be written", file=log)
