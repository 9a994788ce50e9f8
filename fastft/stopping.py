"""SIGINT and SIGTERM while training: the step is finished, a checkpoint written, and the process ends.

A second signal ends it at once; what is half-written then is passed over by the next `--resume`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from rich.console import Console

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class Stopping:
    """Whether this process was asked to end, and by what. `graceful` while there are steps that can be finished."""

    console: Console
    received: signal.Signals | None = None
    graceful: bool = False

    @property
    def exit_code(self) -> int:
        """As shells tell it: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.received or signal.SIGINT)

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The handler of both signals. Raises KeyboardInterrupt where there is no step to finish."""
        if self.received is not None:
            os._exit(128 + number)
        self.received = signal.Signals(number)
        if not self.graceful:
            interrupt = KeyboardInterrupt()
            interrupt.exit_code = self.exit_code  # type: ignore[attr-defined]
            raise interrupt
        self.console.print(
            f"{self.received.name}: this step is finished and a checkpoint written; once more ends it at once"
        )

    def callback(self) -> Any:
        """A TrainerCallback that ends training after the step during which a signal came, with a checkpoint."""
        from transformers import TrainerCallback

        stopping = self

        class StoppingCallback(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
                if stopping.received is not None:
                    control.should_save = control.should_training_stop = True

        return StoppingCallback()


@contextmanager
def stopping_on_signals(console: Console) -> Iterator[Stopping]:
    """Handle both signals within. Handlers are the main thread's: elsewhere, as in a server, nothing is changed."""
    stopping = Stopping(console)
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    former = {number: signal.signal(number, stopping.handle) for number in _SIGNALS}
    try:
        yield stopping
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
