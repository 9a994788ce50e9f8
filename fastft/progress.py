"""One quiet display of training, and every point of it in metrics.jsonl."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.spinner import Spinner

from fastft.lines import append_lines, strict
from fastft.time_left import TimeLeft, spoken, steps_of_strategy

_LINES_WITHOUT_TERMINAL = 10


def is_live(console: Console) -> bool:
    """Whether lines can be drawn over: a terminal, not a pipe and not a notebook's cell."""
    return console.is_terminal and not console.is_jupyter


@contextmanager
def working(console: Console, text: str, *, aloud: bool = False) -> Iterator[Callable[[str], None]]:
    """A spinner with `text` while something takes its time; yields a function that changes the text.

    With `aloud` the text is said in a line of its own where there is no terminal to draw on.
    Unlike `console.status` it leaves sys.stdout alone, which belongs to the log here.
    """
    spinner = Spinner("dots", text)
    if not is_live(console):
        if aloud:
            console.print(f"  {text}", highlight=False, markup=False)
        yield lambda _: None
        return
    with Live(spinner, console=console, transient=True, redirect_stdout=False, redirect_stderr=False):
        yield lambda changed: spinner.update(text=changed)


def progress_callback(
    console: Console, metrics: Path, displayed: Sequence[str] = (), planned: float | None = None
) -> Any:
    """A TrainerCallback that shows step, loss, tokens/s, MFU and time left, and appends each log to `metrics`.

    `displayed` are further logged keys that are shown, `planned` a step's seconds as estimated beforehand. What is
    measured before and after training isn't logged here.

    On a terminal it is one live line; elsewhere (a pipe, a notebook) about ten lines over the whole run.
    """
    from transformers import TrainerCallback

    class ProgressCallback(TrainerCallback):
        def __init__(self) -> None:
            self.display = _Display(console, displayed)
            self.started = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            self.mark = time.perf_counter()
            self.started = self.mark - _seconds_told(metrics)
            self.left = _time_left(args, state, planned)
            self.display.begin(state.max_steps, state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            self.left.step(self._since_mark())
            self.display.step(state.global_step)

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if self.started:
                self.left.evaluated(self._since_mark())

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            self.left.saved(self._since_mark())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
            if not self.started:
                return
            seconds = time.perf_counter() - self.started
            point = {"step": state.global_step, "seconds": round(seconds, 3), **(logs or {})}
            append_lines(metrics, strict(point))
            if "loss" in point:
                self.display.update(state.global_step, point, self.left.left(state.global_step))

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            self.display.end()
            self.started = 0.0

        def _since_mark(self) -> float:
            mark, self.mark = self.mark, time.perf_counter()
            return self.mark - mark

    return ProgressCallback()


def _seconds_told(metrics: Path) -> float:
    """Of training until the last point of a run that is gone on with: its points count on from there."""
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
    return float(json.loads(lines[-1]).get("seconds", 0.0)) if lines else 0.0


def _time_left(args: Any, state: Any, planned: float | None) -> TimeLeft:
    """An estimate for the training that begins, with the evaluations and checkpoints its arguments ask for."""
    epoch = state.max_steps / max(1, state.num_train_epochs)
    evaluations, checkpoints = (
        steps_of_strategy(str(getattr(strategy, "value", strategy)), int(every or 0), state.max_steps, epoch)
        for strategy, every in ((args.eval_strategy, state.eval_steps), (args.save_strategy, state.save_steps))
    )
    return TimeLeft(state.max_steps, planned, evaluations, checkpoints)


class _Display:
    def __init__(self, console: Console, displayed: Sequence[str]) -> None:
        self.console = console
        self.displayed = displayed
        self.live = is_live(console)
        self.total = 0
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            TextColumn("step {task.completed:.0f}/{task.total:.0f} · {task.fields[facts]}"),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def begin(self, total: int, done: int) -> None:
        self.total = total
        if self.live:
            self.task = self.progress.add_task("training", total=total, completed=done, facts="…")
            self.progress.start()

    def step(self, step: int) -> None:
        """The facts stay those of the last log."""
        if self.live:
            self.progress.update(self.task, completed=step)

    def update(self, step: int, point: Mapping[str, Any], left: float | None) -> None:
        facts = facts_of(point, self.displayed)
        facts += f" · {spoken(left)} left" if left is not None else ""
        if self.live:
            self.progress.update(self.task, completed=step, facts=facts)
        elif step % max(1, self.total // _LINES_WITHOUT_TERMINAL) == 0 or step == self.total:
            self.console.print(f"  step {step}/{self.total} · {facts}", highlight=False, soft_wrap=True)

    def end(self) -> None:
        if self.live:
            self.progress.stop()


def facts_of(point: Mapping[str, Any], displayed: Sequence[str] = ()) -> str:
    """What of a logged point is shown: the loss, the `displayed` keys, tokens a second and the card's use."""
    facts = f"loss {float(point['loss']):.3f}"
    facts += "".join(f" · {key.split('/')[-1]} {float(point[key]):.3f}" for key in displayed if key in point)
    if "tokens_per_second" in point:
        facts += f" · {point['tokens_per_second']:,.0f} tokens/s"
    return facts + (f" · {point['mfu']:.0%} MFU" if "mfu" in point else "")
