"""Seconds from the loaded model to the first batch, on data that was prepared before.

uv run python bench/data/first_batch.py [--rows 50000] [--out bench/results/first_batch.json]

The rows are those of bench/data/prepare.py, trained on by fastft/tiny. A first run prepares and keeps them; then, in a
process of its own, the recipe is checked again, the model loaded, and time taken until the trainer gives a batch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prepare import write_rows

ROOT = Path(__file__).resolve().parents[2]


def recipe(data: Path) -> dict[str, Any]:
    return {"model": {"model_name": "fastft/tiny"}, "lora": {"r": 8}, "data": {"path": str(data)}}


def measure(data: Path) -> dict[str, float]:
    """Seconds of the check, of loading the model, and from there to the first batch."""
    from fastft.checking import check
    from fastft.model import load_model
    from fastft.trainers import trainer_builder
    from fastft.trainers.method import Job

    times = [time.perf_counter()]
    checked = check(recipe(data))
    times.append(time.perf_counter())
    model, tokenizer = load_model(checked.recipe.model, checked.recipe.lora, checkpointing=checked.checkpointing)
    times.append(time.perf_counter())
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_builder("sft")(Job(model, tokenizer, checked.data, checked.arguments, Path(folder)))
        next(iter(trainer.get_train_dataloader()))
    times.append(time.perf_counter())
    check_s, load_s, batch_s = (round(b - a, 2) for a, b in itertools.pairwise(times))
    return {"check": check_s, "model": load_s, "model loaded to first batch": batch_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.data:
        print(json.dumps(measure(options.data)))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        write_rows(data, options.rows)
        environment = {**os.environ, "FASTFT_CACHE": f"{folder}/cache", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, __file__, "--data", str(data)]
        runs = [subprocess.run(command, capture_output=True, text=True, env=environment, check=True) for _ in range(2)]
    first, again = (json.loads(run.stdout.splitlines()[-1]) for run in runs)
    print(f"first run  {first}\nagain      {again}")
    if options.out:
        result = {"command": f"python bench/data/first_batch.py --rows {options.rows}", "first": first, "again": again}
        result |= {"date": str(datetime.now(UTC).date()), "machine": f"{os.cpu_count()} CPU threads"}
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
