"""Every shipped tiny recipe and chain, timed: does it improve what it is measured by, export, verify, in three minutes?

    python bench/methods.py                      all of them, one after the other
    python bench/methods.py dpo kto              some methods
    python bench/methods.py --chains             the chains

Each runs as a user would run it, in a process of its own. The table goes to the terminal and, with --out, to a file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
METHODS = ("dpo", "orpo", "cpo", "kto", "reward", "grpo", "rloo", "pretrain")


@dataclass
class Row:
    """One recipe's run; `metrics` are (before, after) by name."""

    name: str
    seconds: float
    cpu_seconds: float
    metrics: dict[str, tuple[float, float]]
    verified: str

    def markdown(self) -> str:
        told = ", ".join(f"{name} {before:.3g} → {after:.3g}" for name, (before, after) in self.metrics.items())
        return f"| {self.name} | {told} | {self.verified} | {self.seconds:.0f} | {self.cpu_seconds:.0f} |"


def run(recipe: Path, place: Path) -> Row:
    """Train the recipe in the folder `place`, where earlier stages of a chain are."""
    begun, used = time.perf_counter(), os.times()
    code = "import sys; from fastft.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", str(recipe)], cwd=place, capture_output=True, text=True, check=False
    )
    seconds, now = time.perf_counter() - begun, os.times()
    cpu = now.children_user + now.children_system - used.children_user - used.children_system
    name = str(recipe.relative_to(RECIPES))
    if done.returncode:
        return Row(name, seconds, cpu, {}, f"FAILED: {done.stderr.strip().splitlines()[:1]}")
    return Row(name, seconds, cpu, *_results(_newest(place)))


def _newest(place: Path) -> Path:
    return max((place / "runs").iterdir(), key=lambda run: (run / "manifest.json").stat().st_mtime)


def _results(run: Path) -> tuple[dict[str, tuple[float, float]], str]:
    both: dict[str, Any] = json.loads((run / "manifest.json").read_text())["evaluation"]
    before, after = ({**both[when], **both[when].pop("metrics")} for when in ("before", "after"))
    numbers = {key: (before[key], after[key]) for key in after if isinstance(after[key], float) and key in before}
    shown = {key: pair for key, pair in numbers.items() if isinstance(pair[0], float)}
    proofs = [json.loads(path.read_text())["passed"] for path in run.glob("exports/*/verification.json")]
    return shown, f"{sum(proofs)} of {len(proofs)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=METHODS)
    parser.add_argument("--chains", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    recipes = [RECIPES / method / "tiny.yaml" for method in options.methods]
    if options.chains:
        recipes = [path for path in sorted((RECIPES / "chains").glob("*/*.yaml")) if "qwen" not in path.name]
    lines = [
        "| recipe | held out, before → after | exports verified | seconds | CPU seconds |",
        "|---|---|---|---|---|",
    ]
    print(*lines, sep="\n")
    with tempfile.TemporaryDirectory() as place:
        for recipe in recipes:
            lines.append(run(recipe, Path(place)).markdown())
            print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
