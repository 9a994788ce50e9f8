"""Memory that runs out, by the allocator's own error: training goes on with smaller micro-batches, and says so."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fastft.errors import TrainingError
from fastft.files import sha256_of
from fastft.out_of_memory import ran_out_of_memory
from tests.short_runs import recipe_of, write_chats

# Asks for more than there is as long as micro-batches hold more than so many rows.
CALLBACK = """
import torch
from transformers import TrainerCallback

class Greedy(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step >= {step} and args.per_device_train_batch_size > {most}:
            torch.empty(1 << 55)
"""


def _train(folder: Path, name: str, **training: Any) -> tuple[Any, str]:
    import fastft

    said, callbacks = io.StringIO(), [f"{folder / 'greedy.py'}:Greedy"] if (folder / "greedy.py").exists() else []
    values = {"max_steps": 4, "save_steps": 1, "gradient_accumulation_steps": 1, **training}
    recipe = recipe_of(folder / "chats.jsonl", training=values, callbacks=callbacks)
    run = fastft.train(recipe, output_dir=folder / name, console=Console(file=said, width=200))
    return run, said.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_chats(tmp_path / "chats.jsonl")
    return tmp_path


def test_the_allocators_errors_are_known() -> None:
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55)
    assert ran_out_of_memory(caught.value)
    wrapped = TrainingError("training stopped")
    wrapped.__cause__ = caught.value
    assert ran_out_of_memory(wrapped)
    assert not ran_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.slow
def test_at_the_first_step_it_equals_a_run_begun_with_the_smaller_batch(folder: Path) -> None:
    whole, _ = _train(folder, "whole", per_device_train_batch_size=2, gradient_accumulation_steps=4)
    (folder / "greedy.py").write_text(CALLBACK.format(step=0, most=2))
    run, said = _train(folder, "run", per_device_train_batch_size=8)
    assert "memory ran out; going on from step 0 with per_device_train_batch_size 8 → 4" in said
    assert "per_device_train_batch_size 4 → 2, gradient_accumulation_steps 4" in said
    weights = "adapter_model.safetensors"
    assert sha256_of(run.adapter / weights) == sha256_of(whole.adapter / weights)
    assert [p["loss"] for p in run.metrics() if "loss" in p] == [p["loss"] for p in whole.metrics() if "loss" in p]
    assert len(json.loads(run.start_path.read_text())["reduced"]) == 2


@pytest.mark.slow
def test_later_it_goes_on_from_the_last_checkpoint_with_the_same_rows(folder: Path) -> None:
    whole, _ = _train(folder, "whole", per_device_train_batch_size=4)
    (folder / "greedy.py").write_text(CALLBACK.format(step=2, most=2))
    run, said = _train(folder, "run", per_device_train_batch_size=4)
    assert "going on from step 2 with per_device_train_batch_size 4 → 2, gradient_accumulation_steps 2" in said
    losses, expected = ([p["loss"] for p in one.metrics() if "loss" in p] for one in (run, whole))
    assert losses[:2] == expected[:2]
    assert losses == pytest.approx(expected, rel=2e-2)
    assert [p["step"] for p in run.metrics() if "loss" in p] == [1, 2, 3, 4]
    tokens, expected = ([p["tokens"] for p in one.metrics() if "loss" in p] for one in (run, whole))
    assert tokens == expected


@pytest.mark.slow
def test_where_nothing_is_left_to_halve_it_stops_and_keeps_the_checkpoint(folder: Path) -> None:
    (folder / "greedy.py").write_text(CALLBACK.format(step=2, most=0))
    with pytest.raises(TrainingError, match="stopped at step 2 of 4") as caught:
        _train(folder, "run", per_device_train_batch_size=2, per_device_eval_batch_size=1)
    assert "from step 2" in caught.value.hint
