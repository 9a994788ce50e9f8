"""What is said, and when, of a signal that comes while the main thread is in a call of seconds, as into torch."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

# A call that no signal ends and that lets other threads run; `busy` tells that it is under way.
_TRAINS = """
import hashlib, os, sys
from pathlib import Path
from fastft.progress import _Display
from fastft.stopping import stopping_on_signals
from fastft.user_console import user_console

def last_words(name):
    Path(sys.argv[1]).write_text(name)
    return "it goes on from step 7"

def work():
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 4_000_000)

console = user_console()
display = _Display(console, ())
with stopping_on_signals(console) as stopping:
    stopping.last_words = last_words
    stopping.graceful = sys.argv[2] == "graceful"
    display.begin(9, 2)
    {work}
    display.end()
    console.print("received", stopping.received.name if stopping.received else None)
"""


class Training:
    """The process above, with what it has said so far."""

    def __init__(self, process: subprocess.Popen[bytes], read: int, noted: Path) -> None:
        self.process, self.said, self._read, self._noted = process, "", read, noted

    def hear(self, text: str = "", within: float = 30.0) -> float:
        """Read until `text` was said, or to the end; the seconds that took."""
        began = time.monotonic()
        while not text or text not in self.said:
            ready = select.select([self._read], [], [], within - (time.monotonic() - began))[0]
            assert ready, f"{text!r} never came; got {self.said!r}"
            piece = b""
            with suppress(OSError):  # a terminal whose other end was closed
                piece = os.read(self._read, 4096)
            if not piece:
                assert not text, f"{text!r} never came; got {self.said!r}"
                break
            self.said += piece.decode(errors="replace")
        return time.monotonic() - began

    @property
    def noted(self) -> str:
        return self._noted.read_text() if self._noted.exists() else ""


@contextmanager
def training(folder: Path, *, terminal: bool, work: str = "work()", graceful: bool = True) -> Iterator[Training]:
    """A process that is in its long call by now."""
    read, write = pty.openpty() if terminal else os.pipe()
    noted = folder / "noted"
    command = [sys.executable, "-c", _TRAINS.replace("{work}", work), str(noted), "graceful" if graceful else ""]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(command, stdout=write, stderr=write, env=environment, start_new_session=True)
    os.close(write)
    try:
        begun = Training(process, read, noted)
        begun.hear("busy")
        time.sleep(0.1)  # into the call
        yield begun
    finally:
        process.kill()
        process.wait()
        os.close(read)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_signal_is_answered_at_once_though_the_main_thread_is_busy(tmp_path: Path, terminal: bool) -> None:
    with training(tmp_path, terminal=terminal) as begun:
        begun.process.send_signal(signal.SIGINT)
        begun.hear("SIGINT: this step is finished and a checkpoint written; once more ends it at once", within=2)
        assert "received" not in begun.said  # the call goes on
        begun.hear("received SIGINT")
        begun.hear()
        assert begun.said.count("this step is finished") == 1
        assert begun.process.wait() == 0
        assert begun.noted == ""


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_one_ends_it_with_a_word(tmp_path: Path, terminal: bool, second: signal.Signals) -> None:
    with training(tmp_path, terminal=terminal) as begun:
        begun.process.send_signal(signal.SIGINT)
        begun.hear("once more", within=2)
        time.sleep(0.6)
        begun.process.send_signal(second)
        begun.hear(f"{second.name} again: ended at once; it goes on from step 7", within=2)
        assert begun.process.wait(timeout=2) == 128 + second
        assert begun.noted == second.name
        begun.hear()
        assert not terminal or begun.said.rindex("\x1b[?25h") > begun.said.rindex("\x1b[?25l")  # the cursor is back


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_one_that_comes_twice_is_one(tmp_path: Path, sent: signal.Signals) -> None:
    """As when a group is told, and `uv run`, which is in it, hands it on."""
    with training(tmp_path, terminal=False) as begun:
        for _ in range(3):
            begun.process.send_signal(sent)
            time.sleep(0.02)
        begun.hear(f"received {sent.name}")
        assert begun.process.wait(timeout=3) == 0
        begun.hear()
        assert begun.said.count("this step is finished") == 1
        assert "again" not in begun.said


def test_without_a_step_to_finish_one_that_comes_twice_leaves_the_time_to_end(tmp_path: Path) -> None:
    work = """
    try: work() or work()
    finally:
        import time
        time.sleep(1)
        print("tidied up", flush=True)"""
    with training(tmp_path, terminal=False, work=work, graceful=False) as begun:
        for _ in range(2):
            begun.process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        begun.hear("tidied up")


@pytest.mark.parametrize("pause", [0.02, 0.7])
def test_another_at_once_or_the_same_after_a_while_is_a_second_one(tmp_path: Path, pause: float) -> None:
    second = signal.SIGTERM if pause < 0.5 else signal.SIGINT
    with training(tmp_path, terminal=False) as begun:
        begun.process.send_signal(signal.SIGINT)
        time.sleep(pause)
        begun.process.send_signal(second)
        assert begun.process.wait(timeout=3) == 128 + second
        begun.hear()
        assert f"{second.name} again: ended at once" in begun.said


_IN_A_LINE = """
    with console._lock: work()"""
_LAST_WORDS_STICK = """
    import time
    stopping.last_words = lambda name: time.sleep(60)
    work()"""


@pytest.mark.parametrize("work", [_IN_A_LINE, _LAST_WORDS_STICK])
def test_a_second_one_ends_it_whatever_is_held_up(tmp_path: Path, work: str) -> None:
    with training(tmp_path, terminal=False, work=work) as begun:
        for _ in range(2):
            begun.process.send_signal(signal.SIGTERM)
            time.sleep(0.6)
        assert begun.process.wait(timeout=4) == 143


def test_without_a_step_to_finish_the_first_one_ends_it(tmp_path: Path) -> None:
    with training(tmp_path, terminal=False, work="work() or work()", graceful=False) as begun:
        begun.process.send_signal(signal.SIGTERM)
        begun.hear()
        assert "this step is finished" not in begun.said
        assert "KeyboardInterrupt" in begun.said
        assert begun.said.count("busy") == 1


def test_a_terminal_that_is_closed_tells_twice_and_ends_nothing(tmp_path: Path) -> None:
    with training(tmp_path, terminal=False) as begun:
        for _ in range(2):
            begun.process.send_signal(signal.SIGHUP)
        begun.hear("received SIGHUP")
        assert begun.process.wait() == 0


def test_a_signal_to_a_process_that_was_forked_is_none_to_its_parent(tmp_path: Path) -> None:
    """As those that load the data are, before they ignore it."""
    work = """
    child = os.fork()
    if not child:
        import signal
        os.kill(os.getpid(), signal.SIGTERM), os.kill(os.getpid(), signal.SIGHUP)
        os._exit(0)
    os.waitpid(child, 0)
    work()"""
    with training(tmp_path, terminal=False, work=work) as begun:
        begun.hear("received None")
        assert begun.process.wait() == 0
        assert "this step is finished" not in begun.said


def test_handlers_and_their_thread_go_with_the_training(tmp_path: Path) -> None:
    script = (
        "import signal, threading; from rich.console import Console; from fastft.stopping import stopping_on_signals\n"
        "before = [signal.getsignal(n) for n in (2, 15, 1)]\n"
        "for _ in range(3):\n"
        "    with stopping_on_signals(Console()): pass\n"
        "assert [signal.getsignal(n) for n in (2, 15, 1)] == before\n"
        "assert threading.active_count() == 1 and signal.set_wakeup_fd(-1) == -1\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
