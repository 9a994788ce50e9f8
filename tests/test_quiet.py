from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from fastft.quiet import library_output_to

_PROGRAM = """
import os, subprocess, sys
from pathlib import Path
from fastft.quiet import library_output_to
from rich.console import Console
print("before")
with library_output_to(Path(sys.argv[1]), Console()) as user:
    print("chatter of python")
    os.write(1, b"chatter of C\\n")
    os.write(2, b"complaint of C\\n")
    subprocess.run(["echo", "chatter of a child"])
    user.print("for the user")
print("after")
"""


def test_everything_but_our_console_goes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    done = subprocess.run([sys.executable, "-c", _PROGRAM, str(log)], capture_output=True, text=True, check=True)
    assert done.stdout == "before\nfor the user\nafter\n"
    assert done.stderr == ""
    written = log.read_text()
    for line in ("chatter of python", "chatter of C", "complaint of C", "chatter of a child"):
        assert line in written


def test_an_error_inside_gives_the_streams_back(tmp_path: Path) -> None:
    streams = sys.stdout, sys.stderr
    descriptors = os.fstat(1).st_ino, os.fstat(2).st_ino
    try:
        with library_output_to(tmp_path / "log", Console()):
            raise KeyError("inside")
    except KeyError:
        pass
    assert (sys.stdout, sys.stderr) == streams
    assert (os.fstat(1).st_ino, os.fstat(2).st_ino) == descriptors


def test_where_stdout_is_no_descriptor_the_console_writes_to_it(tmp_path: Path, capsys) -> None:
    with library_output_to(tmp_path / "log", Console()) as user:
        print("chatter")
        user.print("for the cell")
    assert capsys.readouterr().out == "for the cell\n"
    assert (tmp_path / "log").read_text() == "chatter\n"


def test_a_console_of_the_callers_own_is_used_as_it_is(tmp_path: Path) -> None:
    written = io.StringIO()
    console = Console(file=written)
    with library_output_to(tmp_path / "log", console) as user:
        user.print("for the caller")
        print("chatter")
    assert user is console
    assert written.getvalue() == "for the caller\n"
