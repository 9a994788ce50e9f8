"""`python -m tests.limited_memory RECIPE OUTPUT_DIR MOMENT MEGABYTES`: trains with a real limit from a moment on.

From then on the process gets no more than so many megabytes of address space beyond what it has. Moments are load,
rehearsal, and the numbers of steps, at whose beginning the limit falls, or at whose evaluation with a minus sign.
"""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import sys
from pathlib import Path
from typing import Any


def limit(megabytes: float) -> None:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(megabytes * 2**20), resource.RLIM_INFINITY))


def main(recipe: str, output_dir: str, moment: str, megabytes: str) -> None:
    import fastft
    from fastft import rehearsal, training

    def before(module: Any, name: str) -> None:
        whole = getattr(module, name)

        def limited(*args: Any, **options: Any) -> Any:
            limit(float(megabytes))
            return whole(*args, **options)

        setattr(module, name, limited)

    if moment == "load":
        before(training, "load")
    elif moment == "rehearsal":
        before(rehearsal, "rehearse")
    else:
        _at_step(training, int(moment), float(megabytes))
    fastft.train(json.loads(Path(recipe).read_text()), output_dir=output_dir)


def _at_step(training: Any, step: int, megabytes: float) -> None:
    from transformers import TrainerCallback

    class Limiting(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if state.global_step + 1 == step:
                limit(megabytes)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if state.global_step == -step:
                limit(megabytes)

    make = training.make_trainer

    def made(*args: Any) -> Any:
        trainer, meter = make(*args)
        trainer.add_callback(Limiting())
        return trainer, meter

    training.make_trainer = made


if __name__ == "__main__":
    from fastft.cli import _go_on_afresh
    from fastft.errors import FastftError
    from fastft.out_of_memory import TooLittleMemoryError

    try:
        main(*sys.argv[1:])
    except FastftError as error:
        if isinstance(error, TooLittleMemoryError) and error.run is not None:  # as the command does
            _go_on_afresh(error.run, error)
        sys.exit(f"Error: {error}")
