"""The CPU's plan against what training takes: peak resident memory of real runs of random Llamas. A table, and JSON.

    python bench/plan_calibration.py                    every case; writes bench/results/plan_calibration.json and .md
    python bench/plan_calibration.py --only wide          some of them, printed alone

Each run is a process of its own, `fastft.train` from a recipe on rows of equal length; what is compared is its VmHWM,
as Linux tells it, with `plan.memory` of the same recipe. The CPU's constants stand in fastft/planning/constants.py,
what a layer keeps in fastft/planning/cpu_memory.py.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.materials import Lengths, Size, make_model, write_rows

_RESULTS = Path(__file__).parent / "results"
_STEPS = 3


@dataclass(frozen=True)
class Case:
    """One training. `changes` are keys of the recipe's sections."""

    name: str
    size: Size
    length: int
    batch: int = 1
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def recipe(self, model: Path, rows: Path, output: Path) -> dict[str, Any]:
        recipe: dict[str, dict[str, Any] | str] = {
            "model": {"model_name": str(model), "max_seq_length": self.length},
            "lora": {"r": 16},
            "data": {"path": str(rows), "eval_split": None},
            "training": {
                "max_steps": _STEPS, "per_device_train_batch_size": self.batch, "gradient_accumulation_steps": 1,
                "save_strategy": "no", "packing": False,
            },
            "evaluation": {"samples": 0},
            "export": {"formats": []},
        }  # fmt: skip
        for section, values in self.changes.items():
            recipe[section] = {**recipe.get(section, {}), **values} if values else None  # type: ignore[dict-item]
        return {**recipe, "output_dir": str(output)}


_SMALL = Size(512, 1536, 8, 8, 4, 8192)
_WIDE = Size(1024, 4096, 8, 16, 4, 8192)
_VOCABULARY = Size(512, 1536, 8, 8, 4, 128256)
_DEEP = Size(1024, 4096, 24, 16, 4, 32000)
_LARGE = Size(2048, 8192, 16, 32, 8, 128256)  # the sizes of Llama-3.2-1B
_16BIT = {"model": {"load_in_16bit": True}}
_KEPT = {"lora": {"use_gradient_checkpointing": False}}
_RECOMPUTED = {"lora": {"use_gradient_checkpointing": True}}
_FULL = {"model": {"full_finetuning": True}, "lora": {}}

CASES = (
    Case("small", _SMALL, 256, 8, _RECOMPUTED),
    Case("small, 16 bits", _SMALL, 256, 8, _16BIT | _RECOMPUTED),
    Case("small, kept", _SMALL, 256, 8, _KEPT),
    Case("small, long", _SMALL, 2048, 1, _RECOMPUTED),
    Case("small, long, kept", _SMALL, 2048, 1, _KEPT),
    Case("small, full", _SMALL, 256, 8, _FULL),
    Case("wide", _WIDE, 512, 4, _RECOMPUTED),
    Case("wide, 16 bits", _WIDE, 512, 4, _16BIT | _RECOMPUTED),
    Case("wide, kept", _WIDE, 512, 2, _KEPT),
    Case("wide, 16 bits, kept", _WIDE, 512, 2, _16BIT | _KEPT),
    Case("vocabulary", _VOCABULARY, 256, 4, _RECOMPUTED),
    Case("vocabulary, kept", _VOCABULARY, 512, 4, _KEPT),
    Case("deep", _DEEP, 256, 4, _RECOMPUTED),
    Case("deep, 16 bits", _DEEP, 256, 4, _16BIT | _RECOMPUTED),
    Case("large", _LARGE, 256, 2, _RECOMPUTED),
    Case("large, kept", _LARGE, 256, 2, _KEPT),
    Case("large, 16 bits", _LARGE, 256, 2, _16BIT | _RECOMPUTED),
)


@click.command(help=__doc__)
@click.option("--only", multiple=True, help="Names of cases.")
@click.option("--child", hidden=True, help="Train this recipe and print its peak.")
@click.option("--build", hidden=True, type=(str, click.Path(path_type=Path)), help="Write the model of this case.")
def main(only: tuple[str, ...], child: str | None, build: tuple[str, Path] | None) -> None:
    if child is not None:
        click.echo(json.dumps(_train(json.loads(child))))
        return
    if build is not None:
        _build(next(case for case in CASES if case.name == build[0]), build[1])
        return
    unknown = set(only) - {case.name for case in CASES}
    if unknown:
        raise click.UsageError(f"no such case: {', '.join(unknown)}; there are {', '.join(c.name for c in CASES)}")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if not only or case.name in only:
                found.append(_measure(case, Path(folder)))
                click.echo(_line(found[-1]))
    if not only:
        _store(found)


def _measure(case: Case, folder: Path) -> dict[str, Any]:
    model = folder / f"model{CASES.index(_first_with(case.size))}"
    if not model.exists():
        _run("--build", _first_with(case.size).name, str(model))
    rows = folder / f"{case.name}.jsonl"
    write_rows(rows, model, Lengths(case.length, 0.0, case.length), _STEPS * case.batch)
    done = _run("--child", json.dumps(case.recipe(model, rows, folder / case.name)))
    told = json.loads(done.strip().splitlines()[-1])
    return {"case": case.name, "length": case.length, "batch": case.batch, **told,
            "error": told["planned"] / told["measured"] - 1}  # fmt: skip


def _first_with(size: Size) -> Case:
    return next(case for case in CASES if case.size == size)


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr[-3000:])
    return done.stdout


def _build(case: Case, folder: Path) -> None:
    make_model(folder, case.size)


def _train(recipe: dict[str, Any]) -> dict[str, Any]:
    """Train, and tell the peak of this process beside its plan."""
    from rich.console import Console

    import fastft

    run = fastft.train(recipe, console=Console(quiet=True))
    plan = run.manifest()["plan"]
    measured = _peak()
    metrics = (run.directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {"measured": measured, "planned": plan["memory"], "parts": plan["parts"], "points": len(metrics)}


def _peak() -> int:
    """Bytes of the most memory this process had at a time."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def _line(found: dict[str, Any]) -> str:
    measured, planned = found["measured"] / 1e9, found["planned"] / 1e9
    return f"{found['case']:<20} {measured:6.2f} GB measured {planned:6.2f} GB planned {found['error']:+7.1%}"


def _store(found: list[dict[str, Any]]) -> None:
    from importlib.metadata import version

    versions = {name: version(name) for name in ("torch", "transformers", "trl", "unsloth", "unsloth-zoo")}
    facts = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    text = json.dumps({**facts, "versions": versions, "cases": found}, indent=2) + "\n"
    (_RESULTS / "plan_calibration.json").write_text(text, encoding="utf-8")
    (_RESULTS / "plan_calibration.md").write_text(_table(found), encoding="utf-8")


def _table(found: list[dict[str, Any]]) -> str:
    lines = ["| case | tokens | measured, GB | planned, GB | error |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {each['case']} | {each['batch']} × {each['length']} | {each['measured'] / 1e9:.2f} "
        f"| {each['planned'] / 1e9:.2f} | {each['error']:+.1%} |"
        for each in found
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
