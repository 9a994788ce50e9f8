"""Stopping, memory and bad steps on a card, where steps repeat up to rounding. Run with `pytest tests/gpu`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import fastft
from fastft.errors import TrainingError
from tests.short_runs import recipe_of, write_chats

pytestmark = pytest.mark.gpu

STOPPING = """
import os, signal
from transformers import TrainerCallback

class Stopping(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
"""
POISONING = """
from transformers import TrainerCallback

class Poisoning(TrainerCallback):
    def on_step_begin(self, args, state, control, model=None, **kwargs):
        lora = next(p for name, p in model.named_parameters() if "lora_B" in name)
        self.kept = lora.data.clone() if state.global_step == 2 else None
        if self.kept is not None:
            lora.data.fill_(float("nan"))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self.kept is not None:
            next(p for name, p in model.named_parameters() if "lora_B" in name).data.copy_(self.kept)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_chats(tmp_path / "chats.jsonl")
    return tmp_path


@pytest.fixture
def whole_card() -> Iterator[None]:
    """What a test forbids this process to use of the card is allowed again after it."""
    import torch

    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def _train(folder: Path, name: str, **sections: Any) -> tuple[fastft.Run, str]:
    said = io.StringIO()
    sections["training"] = {"max_steps": 6, "save_steps": 2} | sections.get("training", {})
    recipe = recipe_of(folder / "chats.jsonl", **sections)
    return fastft.train(recipe, output_dir=folder / name, console=Console(file=said, width=250)), said.getvalue()


def _losses(run: fastft.Run) -> list[float]:
    return [point["loss"] for point in run.metrics() if "loss" in point]


def test_a_stopped_run_goes_on_as_one_that_was_not(folder: Path) -> None:
    """As far apart as two runs that nobody stopped may be: kernels on a card add in another order from run to run."""
    whole, _ = _train(folder, "whole")
    (folder / "stop.py").write_text(STOPPING)
    with pytest.raises(TrainingError, match="SIGTERM"):
        _train(folder, "run", callbacks=[f"{folder / 'stop.py'}:Stopping"])
    (folder / "stop.py").write_text(STOPPING.replace("== 3", "== -1"))
    run = fastft.train(folder / "run", resume=True, console=Console(file=io.StringIO()))
    assert len(_losses(run)) == 6
    assert _losses(run) == pytest.approx(_losses(whole), rel=2e-3)


@pytest.mark.usefixtures("whole_card")
def test_a_card_that_is_too_small_for_the_batch_gets_a_smaller_one(folder: Path) -> None:
    """The card is cut to what lies between the peaks of a large and of a small micro-batch."""
    import torch

    sizes = {n: {"per_device_train_batch_size": n, "gradient_accumulation_steps": 16 // n} for n in (2, 16)}
    peaks, losses = {}, {}
    for batch, training in sizes.items():
        torch.cuda.empty_cache()
        run, _ = _train(folder, f"of-{batch}", training=training)
        peaks[batch], losses[batch] = run.manifest()["training"]["peak_memory"], _losses(run)
    assert peaks[16] > peaks[2]
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((peaks[16] + peaks[2]) / 2 / total)
    run, said = _train(folder, "cut", training=sizes[16])
    assert "memory ran out" in said
    assert json.loads(run.start_path.read_text())["reduced"]
    assert _losses(run) == pytest.approx(losses[2], rel=2e-3)


def test_a_step_that_is_no_number_moves_nothing_and_is_skipped(folder: Path) -> None:
    (folder / "poison.py").write_text(POISONING)
    skipping = {"bad_steps": {"action": "skip"}, "callbacks": [f"{folder / 'poison.py'}:Poisoning"]}
    run, said = _train(folder, "run", **skipping)
    assert "step 3" in said
    assert run.manifest()["training"]["skipped_steps"] == 1
    assert fastft.replay(run.directory, 3).losses  # of the batch as it was: the poison was the callback's
