"""SIGINT, SIGTERM and SIGHUP while training: the step is finished, a checkpoint written, and the process ends.

A second signal ends it at once; what is half-written then is passed over by the next `--resume`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class Stopping:
    """Whether this process was asked to end, and by what. `graceful` while there are steps that can be finished."""

    console: Console
    received: signal.Signals | None = None
    graceful: bool = False
    terminals: tuple[int, ...] = ()  # descriptors that are one

    @property
    def exit_code(self) -> int:
        """As shells tell it: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
        return 128 + (self.received or signal.SIGINT)

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The handler of all three. Raises KeyboardInterrupt where there is no step to finish."""
        if self.received is not None:
            if number == signal.SIGHUP:
                return  # of a terminal that is closed both the kernel and the shell tell
            with suppress(OSError, ValueError):
                self.console.show_cursor()
            os._exit(128 + number)
        self.received = signal.Signals(number)
        if self.received is signal.SIGHUP:
            self._say_no_more()
        if not self.graceful:
            interrupt = KeyboardInterrupt()
            interrupt.exit_code = self.exit_code  # type: ignore[attr-defined]
            raise interrupt
        with suppress(OSError, RuntimeError):  # nobody reads it, or it came amid another line: no reason to lose a step
            self.console.print(
                f"{self.received.name}: this step is finished and a checkpoint written; once more ends it at once "
                "(an evaluation under way is left, and made when the run goes on)"
            )

    def _say_no_more(self) -> None:
        """The terminal is gone, and to write to it is an error that must not end training: all goes nowhere."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in self.terminals:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)

    def callback(self) -> Any:
        """A TrainerCallback that asks for a checkpoint of the step in which a signal came; then AfterStep ends it."""
        from transformers import TrainerCallback

        stopping = self

        class StoppingCallback(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
                if stopping.received is not None:
                    control.should_save = True

        return StoppingCallback()


def spare_workers(trainer: Any) -> None:
    """Let the processes that load `trainer`'s data end with it, and not by a signal to a whole group.

    `systemctl stop`, `scancel` and Ctrl-C reach them, too; without them the step under way couldn't be finished.
    """
    for name in ("get_train_dataloader", "get_eval_dataloader"):
        setattr(trainer, name, partial(_sparing, getattr(trainer, name)))


def _sparing(make: Callable[..., Any], *args: Any, **options: Any) -> Any:
    loader = make(*args, **options)
    torchs = getattr(loader, "base_dataloader", loader)  # which accelerate has put its own around
    if getattr(torchs, "num_workers", 0) and not isinstance(torchs.worker_init_fn, _Deaf):
        torchs.worker_init_fn = _Deaf(torchs.worker_init_fn)
    return loader


@dataclass(frozen=True, slots=True)
class _Deaf:
    """What a process that loads data begins with: `then`, the signals ignored. It looks itself for its parent's end."""

    then: Callable[[int], None] | None

    def __call__(self, worker: int) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if self.then is not None:
            self.then(worker)


def _terminals() -> tuple[int, ...]:
    """Looked for beforehand: a terminal that is gone no longer says that it is one."""
    return tuple(number for number in map(int, (path.name for path in Path("/dev/fd").iterdir())) if os.isatty(number))


@contextmanager
def stopping_on_signals(console: Console) -> Iterator[Stopping]:
    """Handle the signals within. Handlers are the main thread's: elsewhere, as in a server, nothing is changed.

    SIGHUP stays ignored where it is, which is what nohup is for.
    """
    stopping = Stopping(console, terminals=_terminals())
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    handled = [number for number in _SIGNALS if not (ignored and number == signal.SIGHUP)]
    former = {number: signal.signal(number, stopping.handle) for number in handled}
    try:
        yield stopping
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
