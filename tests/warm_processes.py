"""`fastft` in real processes that begin with everything imported: forked from one that imported it once.

They can be killed as any process can, and what they leave is what the command leaves; only the seven seconds of
importing Unsloth are spared. `python -m tests.warm_processes` is the process that forks, one command at a time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.forked_command import become_command


@dataclass
class Warm:
    """The forking process, and the command that runs now."""

    server: subprocess.Popen[str]
    pid: int = 0

    def start(self, arguments: Sequence[object], output: Path, **environment: str) -> int:
        """Begin `fastft ARGUMENTS`, all it says going to `output`; returns its process number."""
        job = {"arguments": [str(word) for word in arguments], "output": str(output), "environment": environment}
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        self.pid = self._answer()
        return self.pid

    def send_signal(self, number: int) -> None:
        """To the running command; to nobody if it has ended, because it isn't waited for before `wait`."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit status as subprocess tells it: negative for a signal."""
        assert self.server.stdin is not None
        self.server.stdin.write("wait\n")
        self.server.stdin.flush()
        return self._answer()

    def run(self, arguments: Sequence[object], output: Path, **environment: str) -> int:
        self.start(arguments, output, **environment)
        return self.wait()

    def _answer(self) -> int:
        assert self.server.stdout is not None
        return int(self.server.stdout.readline())


@contextmanager
def warm_processes() -> Iterator[Warm]:
    """A forking process with Unsloth, TRL and what the methods need imported."""
    command = [sys.executable, "-m", "tests.warm_processes"]
    root = Path(__file__).resolve().parents[1]
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # a process that forks must have no threads
    with subprocess.Popen(command, text=True, cwd=root, env=one_thread, **options) as server:
        try:
            yield Warm(server)
        finally:
            server.kill()


def _serve(answers: Any) -> None:
    """Fork for each job and tell its number; hold it as a zombie until it is waited for, so that no other has it."""
    _import_everything()
    for line in sys.stdin:
        pid = _begin(json.loads(line))
        answers.write(f"{pid}\n")
        answers.flush()
        sys.stdin.readline()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        answers.write(f"{status}\n")
        answers.flush()


def _import_everything() -> None:
    from fastft import backend

    backend.import_unsloth()
    import peft.tuners.lora  # noqa: F401
    import trl
    from trl.experimental.orpo import ORPOTrainer  # noqa: F401

    import fastft.artifacts
    import fastft.cli
    import fastft.evaluation
    import fastft.training  # noqa: F401

    for name in ("SFTTrainer", "DPOTrainer", "KTOTrainer", "RewardTrainer", "GRPOTrainer", "RLOOTrainer"):
        getattr(trl, name)


def _begin(job: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        os.environ.update(job["environment"])
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whatever a shell had set
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        become_command(job["arguments"], Path(os.devnull), Path(job["output"]))
    return pid


if __name__ == "__main__":
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries greet on stdout
    _serve(told)
