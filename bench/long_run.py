"""Does anything grow over 10,000 steps? A real run of the tiny model: memory, files, threads, logs, time a step.

    OMP_NUM_THREADS=1 python bench/long_run.py [--steps 10000] [--out bench/results/long_run.md]

`fastft train` runs in a process of its own with every step logged, and checkpoints, evaluations and sampled prompts
every `--every` steps. A callback of the recipe (`Watch`, below) looks at that process from within. It takes about eight
minutes on one core; the table is printed last. Exits with 1 if something grew beyond LIMITS.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from transformers import TrainerCallback

WATCHED = "watched.jsonl"  # beside the run directory
SAMPLES = 20  # of a run, evenly spaced
# What the last sample may have more than the one at a fifth of the way, when caches and pools have filled.
LIMITS = {"resident": 24 << 20, "objects": 5_000, "files": 0, "threads": 0, "train.log": 64 << 10, "state": 64 << 10}
SLOWER = 1.25  # the median step of the last quarter against that of the second


class Watch(TrainerCallback):
    """Looks at the process that trains: a line of JSON at each twentieth of the run."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.began = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.began = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.steps.append(time.process_time() - self.began)
        if state.global_step % max(1, state.max_steps // SAMPLES) == 1:  # one after a checkpoint
            run = Path(args.output_dir).parent
            with (run.parent / WATCHED).open("a", encoding="utf-8") as file:
                file.write(json.dumps(look(run, state.global_step, self.steps)) + "\n")
            self.steps = []


def look(run: Path, step: int, steps: Sequence[float]) -> dict[str, float]:
    """What this process holds now, and the sizes of what it has written. Bytes, and CPU seconds a step."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    newest = max(run.glob("checkpoints/checkpoint-*/trainer_state.json"), key=_step_of, default=None)
    return {
        "step": step,
        "resident": int(status["VmRSS"].split()[0]) << 10,
        "objects": len(gc.get_objects()),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": int(status["Threads"]),
        "train.log": sum(path.stat().st_size for path in run.glob("train.log*")),
        "metrics.jsonl": (run / "metrics.jsonl").stat().st_size if (run / "metrics.jsonl").exists() else 0,
        "state": newest.stat().st_size if newest else 0,
        "seconds": median(steps),
    }


def _step_of(path: Path) -> int:
    return int(path.parent.name.removeprefix("checkpoint-"))


def train(folder: Path, steps: int, every: int) -> list[dict[str, float]]:
    """Train so many steps in a process of its own; the samples of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps({"messages": _turns(n)}) + "\n" for n in range(200)))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(_recipe(folder, steps, every)))
    command = [sys.executable, "-m", "fastft", "train", str(folder / "recipe.yaml"), "--new"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return [json.loads(line) for line in (folder / WATCHED).read_text().splitlines()]


def _turns(n: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"Say the number {n}."},
        {"role": "assistant", "content": f"The number is {n}."},
    ]


def _recipe(folder: Path, steps: int, every: int) -> dict[str, Any]:
    training = {
        "max_steps": steps, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "logging_steps": 1,
        "save_steps": every, "eval_strategy": "steps", "eval_steps": every, "learning_rate": 1e-4,
    }  # fmt: skip
    return {
        "model": {"model_name": "fastft/tiny", "max_seq_length": 128},
        "lora": {"r": 4, "use_gradient_checkpointing": False},
        "data": {"path": str(folder / "rows.jsonl"), "eval_split": 4},
        "training": training,
        "evaluation": {"samples": 0, "prompts": ["Say 3."], "sample_steps": every, "max_new_tokens": 8},
        "callbacks": [f"{Path(__file__).resolve()}:Watch"],
        "output_dir": str(folder / "run"),
    }


def grown(samples: Sequence[dict[str, float]]) -> list[str]:
    """What grew beyond LIMITS between a fifth of the way and the end, in words."""
    early, last = samples[len(samples) // 5], samples[-1]
    found = [
        f"{name} grew by {last[name] - early[name]:,.0f} from step {early['step']:,} to {last['step']:,}; "
        f"{limit:,} are allowed"
        for name, limit in LIMITS.items()
        if last[name] - early[name] > limit
    ]
    quarter = max(1, len(samples) // 4)
    before, after = (
        median(s["seconds"] for s in part) for part in (samples[quarter : 2 * quarter], samples[-quarter:])
    )
    if after > SLOWER * before:
        found.append(f"a step takes {1e3 * after:.1f} ms in the last quarter and took {1e3 * before:.1f} ms before")
    return found


def table(samples: Sequence[dict[str, float]]) -> str:
    lines = [
        "| step | resident MB | objects | open files | threads | CPU ms a step | train.log KB | trainer_state.json KB "
        "| metrics.jsonl KB |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {s['step']:,} | {s['resident'] / 1e6:,.1f} | {s['objects']:,} | {s['files']} | {s['threads']} "
        f"| {1e3 * s['seconds']:.1f} | {s['train.log'] / 1e3:,.0f} | {s['state'] / 1e3:,.0f} "
        f"| {s['metrics.jsonl'] / 1e3:,.0f} |"
        for s in samples
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints, evaluations and samples")
    parser.add_argument("--folder", type=Path, help="where the run is made and kept; a temporary folder left out")
    parser.add_argument("--out", type=Path, help="also write the table into this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        samples = train(options.folder or Path(scratch), options.steps, options.every)
    verdict = "\n".join(grown(samples)) or "Nothing grew beyond the limits."
    text = f"{table(samples)}\n\n{verdict}\n"
    if options.out:
        command = f"    OMP_NUM_THREADS=1 python bench/long_run.py --steps {options.steps} --every {options.every}"
        options.out.write_text(f"# {options.steps:,} steps of the tiny model\n\n{command}\n\n{text}", encoding="utf-8")
    print(text, end="")
    return int(bool(grown(samples)))


if __name__ == "__main__":
    sys.exit(main())
