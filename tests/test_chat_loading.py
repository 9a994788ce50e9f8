"""While a chat's model is loaded that is said, on stderr: stdout has the answers alone."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from contextlib import suppress
from typing import Any

# A model that takes its time to load, while the process's own output leads nowhere.
_CHATS = """
import os, sys, time
from pathlib import Path
from rich.console import Console
from fastft import chat_terminal
from fastft.quiet import library_output_to

class Session:
    def __init__(self, target):
        with library_output_to(Path(os.devnull), Console()):
            print("chatter")
            print("chatter", file=sys.stderr)
            time.sleep(0.7)
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def send(self, text): yield from ("It is ", "green.")

chat_terminal.ChatSession = Session
chat_terminal.chat("model")
"""


def _environment() -> dict[str, str]:
    return {**os.environ, "TERM": "xterm", "COLUMNS": "80"}


def test_in_a_pipe_it_is_a_line_on_stderr() -> None:
    options: dict[str, Any] = {"capture_output": True, "text": True, "env": _environment()}
    done = subprocess.run([sys.executable, "-c", _CHATS], input="What colour?\n", check=True, **options)
    assert done.stdout == "It is green.\n"
    assert done.stderr == "  loading the model\n"


def test_on_a_terminal_a_spinner_turns_until_the_prompt_comes() -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _CHATS], stdin=follower, stdout=follower, stderr=follower, env=_environment()
    )
    os.close(follower)
    seen = ""
    with suppress(OSError):
        while "\n> " not in seen.replace("\r", ""):
            assert select.select([leader], [], [], 30)[0], seen
            seen += os.read(leader, 4096).decode(errors="replace")
    process.kill()
    process.wait()
    os.close(leader)
    before, _, after = seen.rpartition("loading the model")
    assert before.count("loading the model") >= 3  # it was drawn again and again
    assert "\x1b[2K" in after  # and taken away
    assert "/help shows the commands." in after
    assert "chatter" not in seen
