"""Fuzzing: a target's cases run in a worker process, and whatever is neither success nor one clear error is a fault.

A target is a module of this folder with `prepare(folder) -> state` (what the inputs are made of, once) and
`case(state, random, folder) -> list[str] | None`, which writes a hostile input into `folder` and loads it; what it
returns, or sets as `state["names"]`, are texts of which an error must hold one (the file's name). The worker reports
each case; this process ends it where a case takes too long, and starts another after a crash.

    FASTFT_FUZZ_SECONDS=600 .venv/bin/pytest tests/fuzz            ten minutes a target
    FASTFT_FUZZ_SEED=12 FASTFT_FUZZ_CASE=345 .venv/bin/pytest …    one case of one target again

Inputs that failed stay under FASTFT_FUZZ_KEEP (/tmp/fastft-fuzz), each with what happened.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = float(os.environ.get("FASTFT_FUZZ_SECONDS", "2"))
SEED = int(os.environ.get("FASTFT_FUZZ_SEED", "7"))
ONLY = os.environ.get("FASTFT_FUZZ_CASE")
KEEP = Path(os.environ.get("FASTFT_FUZZ_KEEP", "/tmp/fastft-fuzz"))
CASE_SECONDS = float(os.environ.get("FASTFT_FUZZ_CASE_SECONDS", "20"))  # of the clock: the machine may be shared
_START_SECONDS = 180  # imports and the seed corpus
_ENOUGH = 25  # faults, after which a campaign ends


@dataclass
class Outcome:
    """What a campaign came to. `faults` are told apart by where they were raised."""

    cases: int = 0
    errors: int = 0
    faults: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        told = f"{self.cases:,} cases, {self.errors:,} clear errors, {len(self.faults)} faults"
        return "\n".join([told, *self.faults.values()])


def survive(target: str, seconds: float = SECONDS) -> Outcome:
    """Fuzz `target` (a module's name in this folder) for `seconds`, after its start. Asserts that nothing failed."""
    outcome = Outcome()
    first, left = (int(ONLY), 0.0) if ONLY else (0, seconds)
    while first >= 0:
        first, left = _campaign(target, first, left, outcome)
    print(f"{target}: seed {SEED}, {outcome}")
    assert outcome.cases > 0, f"{target} ran no case"
    assert not outcome.faults, f"{target}, seed {SEED}: {outcome}"
    return outcome


def _campaign(target: str, first: int, left: float, outcome: Outcome) -> tuple[int, float]:
    """Run one worker from case `first` on. Returns where the next one begins (-1: nowhere) and the seconds left."""
    keep = KEEP / target
    keep.mkdir(parents=True, exist_ok=True)
    arguments = [target, str(SEED), str(first), str(left), str(keep), str(CASE_SECONDS)]
    with (keep / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", *arguments],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )  # fmt: skip
        try:
            return _watch(worker, target, left, outcome)
        finally:
            worker.kill()
            worker.wait()


def _watch(worker: subprocess.Popen[bytes], target: str, left: float, outcome: Outcome) -> tuple[int, float]:
    running, began = -1, time.monotonic()
    while True:
        limit = _START_SECONDS if running < 0 else CASE_SECONDS + 10  # the worker's own alarm comes first
        event = _next_event(worker, limit)
        if event is None:
            code = worker.poll()
            what = f"no end after {limit:.0f} s" if code is None else f"the worker ended with code {code}"
            assert running >= 0, f"{target} did not start: {what}; see {KEEP / target / 'worker.log'}"
            outcome.faults[f"{what} {running}"] = f"  case {running}: {what}; input in {KEEP / target}"
            return (-1 if ONLY else running + 1), left - (time.monotonic() - began)
        match event:
            case {"start": number}:
                began = time.monotonic() if running < 0 else began
                running = number
            case {"end": kind, "case": number, **rest}:
                outcome.cases += 1
                outcome.errors += kind == "error"
                if kind == "fault":
                    told = f"  case {number}: {rest['what']}; input and traceback in {rest['kept']}"
                    outcome.faults.setdefault(str(rest["where"]), told)
            case {"finished": _}:
                return -1, 0.0
        if len(outcome.faults) >= _ENOUGH:
            return -1, 0.0


def _next_event(worker: subprocess.Popen[bytes], limit: float) -> dict[str, Any] | None:
    """The next line the worker writes, None where there is none in `limit` seconds or it has ended."""
    assert worker.stdout is not None
    if not select.select([worker.stdout], [], [], limit)[0]:
        return None
    line = worker.stdout.readline()
    if not line:
        worker.wait(10)
        return None
    return json.loads(line)
