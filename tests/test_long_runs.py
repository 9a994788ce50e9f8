"""Nothing grows with the number of steps: memory, open files, threads, logs, checkpoints. `bench/long_run.py` takes
10,000 of them."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import pytest

from bench.long_run import LIMITS, grown, train
from fastft import bounded
from tests.short_runs import last_trainer, recipe_of, write_chats
from tests.short_runs import train as train_here

STEPS = 240


@pytest.mark.slow
def test_a_process_holds_as_much_at_the_end_as_early_on(tmp_path: Path) -> None:
    samples = train(tmp_path, STEPS, every=12)
    assert [sample["step"] for sample in samples] == list(range(1, STEPS, STEPS // 20))
    steps_alone = [sample | {"seconds": 1.0} for sample in samples]  # other work on this machine tells nothing
    assert not grown(steps_alone)
    early, last = samples[4], samples[-1]
    assert last["files"] == early["files"]
    assert last["threads"] == early["threads"]
    assert last["objects"] - early["objects"] < 100  # of 20,000; an evaluation's loader that stays is seven
    assert last["train.log"] - early["train.log"] < 2_000
    assert last["metrics.jsonl"] > 3 * early["metrics.jsonl"]  # which has every step


@pytest.mark.slow
def test_points_and_loaders_are_not_kept_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "REMEMBERED", 20)
    training = {"max_steps": 60, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "save_steps": 30}
    training |= {"eval_strategy": "steps", "eval_steps": 5, "logging_steps": 1}
    with last_trainer() as trainers:
        run = train_here(recipe_of(write_chats(tmp_path / "rows.jsonl"), training=training), tmp_path / "run")
    assert len(trainers[0].state.log_history) <= 20 + 3  # the last step's, its evaluation's, the whole training's
    assert len(trainers[0].accelerator._dataloaders) <= 4
    state = json.loads((run.checkpoints / "checkpoint-60" / "trainer_state.json").read_text())
    assert 20 <= len(state["log_history"]) <= 22
    points = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    assert [point["step"] for point in points if "loss" in point] == list(range(1, 61))
    assert [point["step"] for point in points if "eval_loss" in point] == list(range(5, 61, 5))
    assert "grad_norm" not in run.log_path.read_text()


@pytest.mark.slow
def test_a_clock_that_is_set_breaks_no_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day jumps back by an hour, and forth by two, each time it is asked for."""
    jumps, now = itertools.cycle((-3600.0, 7200.0)), time.time
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    training = {"max_steps": 4, "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "logging_steps": 1}
    run = train_here(recipe_of(write_chats(tmp_path / "rows.jsonl"), training=training), tmp_path / "run")
    points = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    seconds = [point["seconds"] for point in points]
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] < 600
    runtimes = [value for point in points for key, value in point.items() if key.endswith("_runtime")]
    assert len(runtimes) == 3  # two evaluations and the whole training
    assert all(0 < runtime < 600 for runtime in runtimes)
    rates = [value for point in points for key, value in point.items() if key.endswith("_per_second")]
    assert len(rates) == 4 * 2 + 3 * 2
    assert all(rate > 0 for rate in rates)
    measured = run.manifest()["training"]
    assert 0 < measured["first_step_seconds"] < 600
    assert measured["tokens_per_second"] > 0
    assert all(0 <= spent < 600 for spent in measured["startup"].values() if isinstance(spent, float))


def test_growth_is_told() -> None:
    flat = dict.fromkeys((*LIMITS, "metrics.jsonl"), 1000.0)
    samples = [{**flat, "step": step, "seconds": 0.01} for step in range(1, 2001, 100)]
    assert not grown(samples)
    samples[-1] |= {"threads": 1001.0, "resident": 1e9}
    assert len(grown(samples)) == 2
    slow = [{**sample, "seconds": 0.01 + sample["step"] / 1e5} for sample in samples[:-1]]
    assert len(grown(slow)) == 1
