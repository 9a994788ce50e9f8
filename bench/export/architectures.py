"""Every family of tests/exporters: train 5 steps in 4 bits, merge, GGUF as f16 and q4_k_m, verify. A table.

    python bench/export/architectures.py
    python bench/export/architectures.py qwen3 gemma-3 mixtral

A family passes if every check of every export does, or is refused before training with the reason shown.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

import fastft
from fastft.errors import FastftError

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.exporters.architectures import FAMILIES, Family, build, recipe, write_rows
from tests.exporters.more_architectures import MORE

EXPORTS = ("merged_16bit", "gguf-f16", "gguf-q4_k_m")


def measure(family: Family, folder: Path, rows: Path) -> list[str]:
    """A row of the table: family, loss, a word for each export with its mean KL divergence, seconds, what happened."""
    model, run = build(family, folder / "model"), folder / "run"
    started, said = time.perf_counter(), "passed"
    try:
        fastft.train(recipe(model, rows), output_dir=run, console=Console(quiet=True))
    except FastftError as error:
        when = "AFTER training" if (run / "adapter").is_dir() else "before training"
        said = f"refused {when}: {error}"
    seconds = f"{time.perf_counter() - started:.0f}"
    return [family.name, _loss(run / "metrics.jsonl"), *(_verdict(run / "exports" / name) for name in EXPORTS), seconds,
            said]  # fmt: skip


def _loss(metrics: Path) -> str:
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
    losses = [point["loss"] for point in map(json.loads, lines) if "loss" in point]
    return f"{losses[0]:.2f} → {losses[-1]:.2f}" if losses else ""


def _verdict(export: Path) -> str:
    path = export / "verification.json"
    if not path.is_file():
        return "–"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    failed = [check["name"] for check in found["checks"] if not check["passed"]]
    divergence = next((check["value"] for check in found["checks"] if check["name"] == "KL divergence"), "")
    return f"{', '.join(failed) or 'ok'}; KL {divergence}"


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Measure the families NAMES, or all."""
    table = Table("family", "loss", *EXPORTS, "s", "result")
    with tempfile.TemporaryDirectory() as place:
        rows = write_rows(Path(place) / "rows.jsonl")
        for family in (*FAMILIES, *MORE):
            if not names or family.name in names:
                table.add_row(*measure(family, Path(place) / family.name, rows))
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
