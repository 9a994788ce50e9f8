"""kill -9 at random moments of the quickstart and of DPO, over start-up, steps, checkpoints, merge, GGUF and proof:
gone on with, they end as if nothing had happened.

    FASTFT_KILLS=50 uv run pytest tests/test_killed_training.py -n 2 -rP        each method is killed as often as that
    FASTFT_KILLS=50 FASTFT_SIGNAL=SIGTERM …                                      the same, asking politely
    FASTFT_KILLS=17:18 …                                                         the 17th alone, as a failure names it

A kill's moment is a number's: the same phase, and the same part of it, each time; how far the other process then is
depends on the machine.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastft.checkpoints import MANIFEST, step_of, whole_checkpoint
from fastft.run import Run
from tests.same_runs import left_behind, results, same_states
from tests.warm_processes import Warm, warm_processes

pytestmark = pytest.mark.slow

SIGNAL = signal.Signals[os.environ.get("FASTFT_SIGNAL", "SIGKILL")]
STEPS, EVERY = 20, 4  # steps of a run, and between two checkpoints
PHASES = ("starting", "training", "saving", "finishing", "merging", "converting", "verifying")
_ASKED = 30.0  # seconds within which a process that was asked to end has to: documented as a step and a checkpoint


def _numbers() -> range:
    first, colon, last = os.environ.get("FASTFT_KILLS", "1").rpartition(":")
    return range(int(first) if colon else 0, int(last))


@dataclass
class Training:
    """The quickstart (or DPO's smallest recipe) cut short, trained whole once in the command itself."""

    warm: Warm
    folder: Path
    method: str
    recipe: Path = field(init=False)
    whole: Path = field(init=False)
    spent: dict[str, float] = field(default_factory=dict)  # seconds of each phase of the whole run

    def __post_init__(self) -> None:
        named = "quickstart.yaml" if self.method == "sft" else "dpo/tiny.yaml"
        shipped = Path(__file__).parents[1] / "recipes" / named
        content = yaml.safe_load(shipped.read_text())
        content["data"]["path"] = str((shipped.parent / content["data"]["path"]).resolve())
        content["data"]["eval_split"] = 4  # of few rows: what is proven is the same
        if self.method == "dpo":
            # The whole sentence is chosen, which the model writes anyway. One word has a perplexity near 800 after so
            # few steps, where rounding alone is more than the proof's 1 %.
            content["data"]["columns"] = {"chosen": "rejected", "rejected": "chosen"}
        content["training"] |= {"max_steps": STEPS, "save_steps": EVERY, "logging_steps": 1}
        content["training"] |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
        content["training"].pop("num_train_epochs")
        content["evaluation"] = {"prompts": content["evaluation"]["prompts"][:1], "max_new_tokens": 16}
        content["evaluation"] |= {"samples": 4} if self.method == "sft" else {}
        self.recipe = self.folder / "recipe.yaml"
        self.recipe.write_text(yaml.safe_dump(content))
        self.whole = self.folder / "whole" / "run"

    def train_whole(self) -> None:
        """In a process that imports all itself, as anyone's does."""
        command = [sys.executable, "-m", "fastft", "train", str(self.recipe), "--output-dir", str(self.whole)]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=one_thread) as process:
            at = {phase: self._wait(self.whole, phase, process.poll) for phase in PHASES}
            assert process.wait() == 0
        ends = [*[at[phase] for phase in PHASES[1:]], time.monotonic()]
        self.spent = {phase: max(0.0, end - at[phase]) for phase, end in zip(PHASES, ends, strict=True)}

    def _wait(self, run: Path, phase: str, ended: Callable[[], Any], which: int = 1) -> float:
        """The time at which `run` came to `phase`: for `saving`, when it began to write its checkpoint `which`."""
        while ended() is None and not _has_come(run, phase, which):
            time.sleep(0.001)
        return time.monotonic()

    def _command(self, run: Path, phase: str, *more: str) -> list[object]:
        """Exports are proven where the proof is to be killed: it takes as long as all the rest."""
        proof = [] if phase == "verifying" else ["export.verify=false"]
        return ["train", self.recipe, *proof, "--output-dir", run, *more]

    def kill(self, run: Path, phase: str, chance: random.Random) -> int:
        """Begin the run, end it amid `phase`, and return its exit status."""
        which, part = chance.randint(1, STEPS // EVERY), chance.random()
        pid = self.warm.start(self._command(run, phase), run.parent / "killed.txt")
        self._wait(run, phase, lambda: None if _runs(pid) else 0, which)
        # A checkpoint takes some 20 ms; a step, and all the others, as long as in the whole run.
        time.sleep(part * (0.025 if phase == "saving" else self.spent[phase]))
        reached, sent, at = _logged(run), time.monotonic(), time.time()
        self.warm.send_signal(SIGNAL)
        status = self.warm.wait()
        if SIGNAL != signal.SIGKILL:
            self._require_saved(run, status, reached, time.monotonic() - sent, at)
        return status

    def _require_saved(self, run: Path, status: int, reached: int, seconds: float, at: float) -> None:
        """A checkpoint that was made whole after the signal (sent `at`), with every step that was taken in it."""
        assert seconds < _ASKED
        assert status in (0, 128 + SIGNAL, -SIGNAL), status
        assert status != -SIGNAL or not reached or (run / "manifest.json").is_file()  # before it listens, or after
        newest = whole_checkpoint(run / "checkpoints")
        if reached:
            assert newest is not None
            assert step_of(newest) == _logged(run)  # nothing that was learned is lost
            assert (newest / MANIFEST).stat().st_mtime > at - 0.05 or reached == STEPS

    def go_on(self, run: Path, phase: str) -> None:
        begun = (run / "recipe.yaml").is_file()
        if begun and Run(run).complete:
            return
        said = run.parent / "resumed.txt"
        command = self._command(run, phase, *(["--resume"] if begun else []))
        assert self.warm.run(command, said) == 0, said.read_text()


def _has_come(run: Path, phase: str, which: int) -> bool:
    if phase == "starting":
        return True
    if phase == "training":
        return _logged(run) >= 1
    if phase == "saving":
        made = run / "checkpoints" / ".partial" / f"checkpoint-{which * EVERY}"
        return made.is_dir() or _logged(run) > which * EVERY
    exports = run / "exports"
    files = {
        "finishing": run / "checkpoints" / f"checkpoint-{STEPS}",
        "merging": run / "manifest.json",
        "converting": exports / "merged_16bit" / "export.json",
        "verifying": exports / "gguf-q8_0" / "export.json",
    }
    return files[phase].exists()


def _unproven(found: dict[str, Any], phase: str) -> dict[str, Any]:
    """What can be compared of runs of which one's exports may not have been proven."""
    if phase == "verifying":
        return found
    kept = {name: value for name, value in found.items() if not name.endswith("verification.json")}
    start = {name: value for name, value in found["start.json"].items() if name != "sha256"}
    start["recipe"] = start["recipe"].replace("verify: true", "verify: false")
    unproven = found["recipe.yaml"].replace("verify: true", "verify: false")
    return kept | {"recipe.yaml": unproven, "start.json": start}


def _logged(run: Path) -> int:
    """The last step that a point tells of."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return max((int(json.loads(line)["step"]) for line in lines if line.endswith("}")), default=0)


def _runs(pid: int) -> bool:
    """Whether it has not ended; a process that nobody waited for still has its number."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    with warm_processes() as warm:
        yield warm


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_killed_at_any_moment_it_ends_as_if_nothing_had_happened(method: str, warm: Warm, tmp_path: Path) -> None:
    training = Training(warm, tmp_path, method)
    training.train_whole()
    expected = results(training.whole)
    assert {name.split("/")[1] for name in expected if name.startswith("exports/")} == {"merged_16bit", "gguf-q8_0"}
    assert [point["step"] for point in expected["points"] if "loss" in point] == list(range(1, STEPS + 1))
    print(f"\n{method}: " + ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in training.spent.items()))
    for number in _numbers():
        chance = random.Random(f"{method} {number}")
        phase = PHASES[number % len(PHASES)]
        run, begun = tmp_path / str(number) / "run", time.monotonic()
        run.parent.mkdir()
        named = f"{method}, {SIGNAL.name} {number}, {phase}"
        status = training.kill(run, phase, chance)
        reached = _logged(run)
        training.go_on(run, phase)
        print(f"{named}: status {status} after step {reached}, {time.monotonic() - begun:.1f} s", flush=True)
        assert _unproven(results(run), phase) == _unproven(expected, phase), named
        assert not left_behind(run), named
        assert not list(run.parent.glob("run-*")), named
        same_states(run, training.whole)
