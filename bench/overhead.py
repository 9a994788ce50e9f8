"""What fastft's own callbacks and counting cost around TRL's step, as a share of the training.

    python bench/overhead.py [--steps 40] [--recipe recipes/quickstart.yaml]

One process trains two trainers in turns, A B B A, on the same data: B with all that `train` puts around TRL's step
(counting, metrics.jsonl, the display, the clock of the start), A with nothing. Two figures come out:

- own: CPU time of the training's thread spent inside fastft's functions, over that of the steps. It hardly varies, and
  is what is gated.
- ratio: CPU time of that thread in a step of B over one of A: the same of the whole, with the machine's noise in it.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ORDER = "ABBA"


class Spent:
    """Seconds of this thread's CPU time inside the functions that were `watched`, calls within calls counted once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.depth = 0

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            self.depth += 1
            began = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                self.depth -= 1
                if not self.depth:
                    self.seconds += time.thread_time() - began

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "quickstart.yaml")
    options = parser.parse_args()
    print(json.dumps(measure(options.recipe, options.steps), indent=2))


def measure(recipe: Path | dict[str, Any], steps: int) -> dict[str, float]:
    """Shares and seconds, see above."""
    from fastft.checking import check

    checked = check(recipe)
    spent, times = Spent(), {"A": [], "B": []}
    with tempfile.TemporaryDirectory() as folder:
        for number, arm in enumerate(ORDER):
            times[arm] += _steps(checked, steps, Path(folder) / str(number), spent if arm == "B" else None)
    whole = sum(times["B"])
    return {
        "own_share": round(spent.seconds / whole, 5),
        "own_milliseconds_a_step": round(1e3 * spent.seconds / len(times["B"]), 3),
        "step_milliseconds": round(1e3 * median(times["B"]), 1),
        "ratio_of_medians": round(median(times["B"]) / median(times["A"]), 4),
    }


def _steps(checked: Any, steps: int, folder: Path, spent: Spent | None) -> list[float]:
    """CPU seconds of each step but the first three, of a trainer with fastft's functions around it or without."""
    from transformers import TrainerCallback

    from fastft.profiling import trainer_for

    seconds: list[float] = []

    class Clock(TrainerCallback):
        began = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            now = time.thread_time()
            if state.global_step > 3:
                seconds.append(now - self.began)
            self.began = now

    folder.mkdir()
    trainer = trainer_for(checked, folder / "checkpoints", steps)
    if spent is not None:
        _surround(trainer, checked, folder, spent)
    trainer.add_callback(Clock())
    trainer.train()
    return seconds


def _surround(trainer: Any, checked: Any, folder: Path, spent: Spent) -> None:
    """What `training.train` puts around a trainer, each of its functions watched."""
    from rich.console import Console

    from fastft.progress import progress_callback
    from fastft.startup import Startup, first_step_callback
    from fastft.throughput import Meter, meter_for

    meter = meter_for(checked, trainer.model, checked.arguments)

    class Watched(Meter):
        count = spent.watched(Meter.count)

    Watched(meter.cost, meter.tflops).attach(trainer)
    own = [trainer.callback_handler.callbacks[1]]
    own.append(progress_callback(Console(file=io.StringIO()), folder / "metrics.jsonl"))
    own.append(first_step_callback(Startup()))
    for callback in own[1:]:
        trainer.add_callback(callback)
    for callback in own:
        for event in ("on_step_begin", "on_step_end", "on_log"):
            setattr(callback, event, spent.watched(getattr(callback, event)))


if __name__ == "__main__":
    main()
