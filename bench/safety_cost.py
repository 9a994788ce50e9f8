"""What cannot-be-killed costs a normal run: the quickstart's training with all of it, and without.

    OMP_NUM_THREADS=1 python bench/safety_cost.py [--pairs 4] [--recipe recipes/quickstart.yaml]

Each run is a whole `fastft.train` (no exports) in a process forked from one that has everything imported, in turns
with, without, without, with. Without means that what is in OFF is replaced in that process by something that does
nothing: rehearsal, the guard of losses and gradients, heartbeat, the start of each step kept for one that runs out of
memory, disk checks, and a checkpoint's hashes and fsync. CPU seconds of the whole process are compared, which other
work on the machine hardly moves; seconds of the clock, where waiting for the disk is in, stand beside them. Two equal
runs differ by some per cent, so that few pairs say little; what is within these functions (TIMED), by the clock, is
told beside it, and hardly varies. The table is printed last.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TARGET = 0.03  # of the run's time


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _begun(_: Any, run: Any, *__: Any, **___: Any) -> dict[str, Any]:
    from fastft.resume import started_with

    return started_with(run)


# module:attribute -> what takes its place
OFF: dict[str, Callable[..., Any]] = {
    "fastft.rehearsal:rehearse": _begun,
    "fastft.bad_steps:BadSteps.attach": _nothing,
    "fastft.heartbeat:Heartbeat.beat": _nothing,
    "fastft.out_of_memory:StepStart.attach": _nothing,
    "fastft.training:require_disk": _nothing,
    "fastft.checkpoints:require_room": _nothing,
    "fastft.checkpoints:seal": _nothing,
    "fastft.checkpoints:rotate": _nothing,
    "fastft.checkpoints:make_durable": _nothing,
}


# What of it takes time, as it is called: `attach` only puts these in their places.
TIMED = (
    "fastft.rehearsal:rehearse",
    "fastft.bad_steps:BadSteps.look",
    "fastft.bad_steps:BadSteps._remember",
    "fastft.heartbeat:Heartbeat.beat",
    "fastft.out_of_memory:random_state",
    "fastft.out_of_memory:open_ends",
    "fastft.training:require_disk",
    "fastft.checkpoints:require_room",
    "fastft.checkpoints:seal",
    "fastft.checkpoints:rotate",
    "fastft.checkpoints:make_durable",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "quickstart.yaml")
    options = parser.parse_args()
    _import_everything()
    found: dict[str, list[tuple[float, float]]] = {"with": [], "without": []}
    within: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.pairs):
            turns = ("with", "without") if number % 2 == 0 else ("without", "with")
            for arm in turns:
                place = Path(folder) / f"{arm}-{number}"
                found[arm].append(_run(options.recipe, place / "run", off=arm == "without"))
                within += [json.loads((place / "within.json").read_text())] if arm == "with" else []
    print(table(found, within))


def _import_everything() -> None:
    from fastft import backend

    backend.import_unsloth()
    from trl import SFTTrainer  # noqa: F401  # pyright: ignore[reportPrivateImportUsage]

    import fastft.training  # noqa: F401


def _run(recipe: Path, place: Path, *, off: bool) -> tuple[float, float]:
    """(CPU seconds, seconds) of a training in a process of its own."""
    began = time.perf_counter()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = _train(recipe, place, off=off)
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"a training failed: {place}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - began


def _train(recipe: Path, place: Path, *, off: bool) -> int:
    from rich.console import Console

    import fastft

    within: dict[str, float] = dict.fromkeys(TIMED, 0.0)
    for name in OFF if off else TIMED:
        owner, attribute = _place(name)
        instead = OFF[name] if off else _timed(getattr(owner, attribute), name, within)
        setattr(owner, attribute, instead)
    place.parent.mkdir(parents=True)
    with contextlib.redirect_stdout(io.StringIO()):
        run = fastft.train(recipe, ["export.formats=[]"], output_dir=place, console=Console(file=io.StringIO()))
    assert json.loads(run.manifest_path.read_text())["training"]["steps"] > 0
    (place.parent / "within.json").write_text(json.dumps(within))
    return 0


def _place(name: str) -> tuple[Any, str]:
    """(what has it, its name there) of module:attribute."""
    module, _, path = name.partition(":")
    *owners, attribute = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    assert hasattr(owner, attribute), name  # else this would measure nothing
    return owner, attribute


_entered: list[str] = []


def _timed(function: Callable[..., Any], name: str, within: dict[str, float]) -> Callable[..., Any]:
    """`function`, whose seconds are added to those `within` it, unless another one called it."""

    def timed(*args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        _entered.append(name)
        try:
            return function(*args, **options)
        finally:
            _entered.pop()
            if not _entered:
                within[name] += time.perf_counter() - began

    return timed


def table(found: Mapping[str, Sequence[tuple[float, float]]], within: Sequence[Mapping[str, float]]) -> str:
    """Medians of both arms, what is added, and what is within the functions themselves."""
    lines = ["| | CPU seconds | seconds |", "|---|--:|--:|"]
    middle = {arm: [median(run[at] for run in runs) for at in (0, 1)] for arm, runs in found.items()}
    for arm, values in middle.items():
        lines.append(f"| {arm} (median of {len(found[arm])}) | {values[0]:.2f} | {values[1]:.2f} |")
    added = [with_all / without - 1 for with_all, without in zip(middle["with"], middle["without"], strict=True)]
    lines.append(f"| added | {added[0]:+.1%} | {added[1]:+.1%} |")
    each = {name: median(run[name] for run in within) for name in TIMED}
    share = sum(each.values()) / middle["with"][1]
    lines.append(f"| within these functions | | {sum(each.values()):.2f} ({share:.1%}) |")
    lines += [f"| {name.partition(':')[2]} | | {seconds:.2f} |" for name, seconds in each.items() if seconds >= 0.005]
    verdict = "below" if added[0] < TARGET else "ABOVE"
    return "\n".join(lines) + f"\n\nCPU time added: {added[0]:+.1%}, {verdict} the target of {TARGET:.0%}."


if __name__ == "__main__":
    sys.exit(main())
