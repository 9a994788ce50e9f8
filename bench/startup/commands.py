"""Seconds until `fastft --help` and `fastft check` are done, and to the end of the quickstart's first training step.

    python bench/startup/commands.py [--out]

The commands in turns, so that a busy moment of the machine harms all; best and median. The first step is split by what
the run itself writes into its manifest. Nothing is dropped from the system's file cache: a first call after installing
takes longer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from bench.driver import ROOT, finish, say

QUICKSTART = "recipes/quickstart.yaml"
TARGETS = {"--help": 0.3, f"check {QUICKSTART}": 3.0, "first step": 25.0}  # issue 6, seconds on 2 cores


def seconds(arguments: Sequence[str]) -> float:
    command = [str(Path(sys.executable).parent / "fastft"), *arguments]
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started


def first_step() -> dict[str, Any]:
    """Seconds from the command to the end of the first step, and of each stage, as the run says them."""
    with tempfile.TemporaryDirectory() as folder:
        given = ["training.max_steps=1", "export.formats=[]", "--output-dir", f"{folder}/run"]
        seconds(["train", QUICKSTART, *given])
        return json.loads((Path(folder) / "run" / "manifest.json").read_text())["training"]["startup"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10, help="calls of each command; trainings are a third of it")
    parser.add_argument("--out", action="store_true", help="write bench/results/startup.json and .md")
    options = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in TARGETS}
    stages: list[dict[str, Any]] = []
    for turn in range(options.times):
        for name in ("--help", f"check {QUICKSTART}"):
            taken[name].append(seconds(name.split()))
        if turn % 3 == 0:
            stages.append(first_step())
            taken["first step"].append(stages[-1]["seconds"])
        say(f"{turn + 1} of {options.times}: " + ", ".join(f"{n} {t[-1]:.2f} s" for n, t in taken.items()))
    lines = ["| command | best (s) | median (s) | calls | target (s) |", "|---|---|---|---|---|"]
    for name, found in taken.items():
        told = f"train {QUICKSTART}, to the end of step 1" if name == "first step" else name
        row = (f"`fastft {told}`", f"{min(found):.2f}", f"{statistics.median(found):.2f}", len(found), TARGETS[name])
        lines.append("| " + " | ".join(map(str, row)) + " |")
    best = min(stages, key=lambda found: found["seconds"])
    lines += ["", "The fastest start by stage: " + ", ".join(f"{n} {s:.1f} s" for n, s in best["stages"].items())]
    finish("startup" if options.out else None, "\n".join(lines), seconds=taken, stages=stages)


if __name__ == "__main__":
    main()
