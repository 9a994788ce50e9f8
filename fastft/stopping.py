"""SIGINT, SIGTERM and SIGHUP while training: the step is finished, a checkpoint written, and the process ends.

A second signal ends it at once; what is half-written then is passed over by the next `--resume`. SIGHUP counts once:
of a terminal that is closed both the kernel and the shell tell.
Python runs handlers between two steps of its own in the main thread, and a call into torch may take seconds; so a
thread beside it hears of signals too, says what will happen, and ends the process.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fastft.checkpoints import newest_step
from fastft.heartbeat import FILE as HEARTBEAT
from fastft.heartbeat import Heartbeat
from fastft.history import FILE as HISTORY
from fastft.history import History
from fastft.progress import is_live

if TYPE_CHECKING:
    from fastft.run import Run

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LAST_WORDS = 2.0  # seconds that these may take, to a terminal that is held up, say
_ECHO = 0.5  # seconds in which the same signal counts once: `uv run` hands on what all of its group are told


@dataclass(slots=True)
class Stopping:
    """Whether this process was asked to end, and by what. `graceful` while there are steps that can be finished.

    `last_words` is called with the signal's name before a second one ends the process, in any state of the rest; what
    it returns is said.
    """

    console: Console
    received: signal.Signals | None = None
    graceful: bool = False
    terminals: tuple[int, ...] = ()  # descriptors that are one
    last_words: Callable[[str], str] | None = None
    _first: tuple[int, float] | None = None  # the signal the thread heard first, and when
    _ending: threading.Event = field(default_factory=threading.Event)  # the thread ends the process, on a second one

    @property
    def exit_code(self) -> int:
        """As shells tell it: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
        return 128 + (self.received or signal.SIGINT)

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The handler of all three. Raises KeyboardInterrupt where there is no step to finish."""
        if self.received is not None:
            if self._ending.wait(_ECHO):
                threading.Event().wait(2 * _LAST_WORDS)  # nothing more is done until the thread ends the process
                os._exit(128 + number)
            return
        self.received = signal.Signals(number)
        if self.received is signal.SIGHUP:
            self._say_no_more()
        if not self.graceful:
            interrupt = KeyboardInterrupt()
            interrupt.exit_code = self.exit_code  # type: ignore[attr-defined]
            raise interrupt

    def hear(self, number: int) -> None:
        """What the thread does about a signal: tell of the first, end the process at the second."""
        if self._first is None:
            self._first = number, time.monotonic()
            if number == signal.SIGHUP:
                self._say_no_more()
            if self.graceful:
                told = (
                    f"{signal.Signals(number).name}: this step is finished and a checkpoint written; once more ends it "
                    "at once (an evaluation under way is left, and made when the run goes on)"
                )
                _beside(partial(self._tell, told))
        elif number != signal.SIGHUP and not self._is_echo(number):
            self._ending.set()
            _beside(partial(self._end, signal.Signals(number).name)).join(_LAST_WORDS)
            os._exit(128 + number)

    def _is_echo(self, number: int) -> bool:
        return self._first is not None and number == self._first[0] and time.monotonic() - self._first[1] < _ECHO

    def _end(self, name: str) -> None:
        then = ""
        with suppress(Exception):  # whatever state the rest is in: it may be amid anything
            then = self.last_words(name) if self.last_words is not None else ""
        told = f"{name} again: ended at once" + (f"; {then}" if then else "")
        try:  # past rich, whose lock the main thread may hold
            file = self.console.file
            before, after = ("\r\x1b[2K", "\x1b[?25h") if is_live(self.console) else ("", "")
            os.write(file.fileno(), f"{before}{told}{after}\n".encode())
        except (OSError, ValueError, AttributeError):  # a notebook's cell
            self._tell(told)

    def _tell(self, what: str) -> None:
        with suppress(OSError, ValueError, RuntimeError):  # nobody reads it: no reason to lose a step
            self.console.print(what, markup=False)

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


def last_words(trainer: Any, run: Run, name: str) -> str:
    """Tell the history of a second signal, which ends the process at once; returns from where the run goes on."""
    heartbeat, step = Heartbeat.after(run.directory / HEARTBEAT), trainer.state.global_step
    why, doing = f"{name}, the second signal: ended at once", str(heartbeat.before.get("state", "training"))
    History(run.directory / HISTORY, heartbeat).note("stopped", step, why=why, doing=doing)
    newest = newest_step(run.checkpoints)
    reached = f"from step {newest}" if newest else "from the start (no checkpoint was written yet)"
    return f"it goes on {reached}: fastft train {run.directory} --resume"


def _beside(work: Callable[[], None]) -> threading.Thread:
    """Do what may have to wait, for the lock of rich's console or for a terminal that is held up."""
    doing = threading.Thread(target=work, daemon=True)
    doing.start()
    return doing


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
    with _heard_by_a_thread(lambda number: stopping.hear(number) if number in handled else None):
        former = {number: signal.signal(number, stopping.handle) for number in handled}
        try:
            yield stopping
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


@contextmanager
def _heard_by_a_thread(hear: Callable[[int], None]) -> Iterator[None]:
    """Call `hear` with the number of each signal as it comes, in a thread, whatever the main thread is at."""
    heard, told = os.pipe()
    os.set_blocking(told, False)
    former = _listening.begin(told)
    listener = threading.Thread(target=_listen, args=(heard, hear), daemon=True, name="fastft signals")
    listener.start()
    try:
        yield
    finally:
        _listening.end(former)
        os.write(told, b"\0")  # a process that was forked may hold the other end open
        os.close(told)
        listener.join(_LAST_WORDS)


def _listen(heard: int, hear: Callable[[int], None]) -> None:
    for number in iter(lambda: os.read(heard, 1), b"\0"):
        hear(number[0])
    os.close(heard)


class _Listening:
    """Whether Python's own handler of signals writes their numbers for the thread here."""

    on = False

    def begin(self, told: int) -> int:
        self.on = True
        return signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def end(self, former: int) -> None:
        signal.set_wakeup_fd(former)
        self.on = False

    def forget(self) -> None:
        """In a process that was forked: signals to it are none to its parent."""
        if self.on:
            self.end(-1)


_listening = _Listening()
os.register_at_fork(after_in_child=_listening.forget)
