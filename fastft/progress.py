"""One quiet display of training, and every point of it in metrics.jsonl."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.spinner import Spinner

_LINES_WITHOUT_TERMINAL = 10


def is_live(console: Console) -> bool:
    """Whether lines can be drawn over: a terminal, not a pipe and not a notebook's cell."""
    return console.is_terminal and not console.is_jupyter


@contextmanager
def working(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """A spinner with `text` while something takes its time; yields a function that changes the text.

    Unlike `console.status` it leaves sys.stdout alone, which belongs to the log here.
    """
    spinner = Spinner("dots", text)
    if not is_live(console):
        yield lambda _: None
        return
    with Live(spinner, console=console, transient=True, redirect_stdout=False, redirect_stderr=False):
        yield lambda changed: spinner.update(text=changed)


def progress_callback(console: Console, metrics: Path, displayed: Sequence[str] = ()) -> Any:
    """A TrainerCallback that shows step, loss, tokens/s and time left, and appends each log to `metrics`.

    `displayed` are further logged keys that are shown. What is measured before and after training isn't logged here.

    On a terminal it is one live line; elsewhere (a pipe, a notebook) about ten lines over the whole run.
    """
    from transformers import TrainerCallback

    class ProgressCallback(TrainerCallback):
        def __init__(self) -> None:
            self.display = _Display(console, displayed)
            self.started = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            self.started = time.perf_counter()
            self.display.begin(state.max_steps, state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
            if not self.started:
                return
            seconds = time.perf_counter() - self.started
            point = {"step": state.global_step, "seconds": round(seconds, 3), **(logs or {})}
            tokens = point.get("num_tokens")
            if tokens and seconds > 0:
                point["tokens_per_second"] = round(tokens / seconds, 1)
            with metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(point) + "\n")
            if "loss" in point:
                self.display.update(state.global_step, point)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            self.display.end()
            self.started = 0.0

    return ProgressCallback()


class _Display:
    def __init__(self, console: Console, displayed: Sequence[str]) -> None:
        self.console = console
        self.displayed = displayed
        self.live = is_live(console)
        self.total = 0
        self.started = time.perf_counter()
        self.first = 0
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            TextColumn("step {task.completed:.0f}/{task.total:.0f} · {task.fields[facts]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def begin(self, total: int, done: int) -> None:
        self.total, self.first, self.started = total, done, time.perf_counter()
        if self.live:
            self.task = self.progress.add_task("training", total=total, completed=done, facts="…")
            self.progress.start()

    def update(self, step: int, point: dict[str, Any]) -> None:
        facts = f"loss {float(point['loss']):.3f}"
        facts += "".join(f" · {key.split('/')[-1]} {float(point[key]):.3f}" for key in self.displayed if key in point)
        if "tokens_per_second" in point:
            facts += f" · {point['tokens_per_second']:,.0f} tokens/s"
        if self.live:
            self.progress.update(self.task, completed=step, facts=facts)
        elif step % max(1, self.total // _LINES_WITHOUT_TERMINAL) == 0 or step == self.total:
            left = (time.perf_counter() - self.started) / max(1, step - self.first) * (self.total - step)
            self.console.print(f"  step {step}/{self.total} · {facts} · {left:.0f} s left", highlight=False)

    def end(self) -> None:
        if self.live:
            self.progress.stop()
