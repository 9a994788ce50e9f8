"""Epochs, steps and rows are counted as transformers' Trainer makes them, where the last batch isn't full, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastft.backend import import_unsloth
from fastft.trainers.defaults import steps_of
from fastft.trainers.epochs import epochs_of, passes, steps_an_epoch


def _trained(rows: int, arguments: dict[str, Any], folder: Path) -> tuple[int, float, int]:
    """(steps, epochs, rows fed) of a real training of one number."""
    import torch
    from torch import nn
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            self.fed = 0

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            self.fed += len(x)
            return {"loss": (self.weight - x).square().mean()}

    own = {"output_dir": str(folder), "report_to": "none", "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}
    dataset: Any = [{"x": float(n)} for n in range(rows)]
    model = Model()
    trainer = Trainer(model, TrainingArguments(**own, **arguments), train_dataset=dataset)
    trainer.train()
    return trainer.state.global_step, float(trainer.state.epoch or 0), model.fed


@pytest.mark.parametrize(
    ("rows", "arguments"),
    [
        (44, {"max_steps": 24}),
        (44, {"max_steps": 10}),
        (44, {"num_train_epochs": 3}),
        (44, {"num_train_epochs": 2.5}),
        (44, {"max_steps": 24, "dataloader_drop_last": True}),
        (44, {"num_train_epochs": 2, "dataloader_drop_last": True}),
        (44, {"max_steps": 8, "gradient_accumulation_steps": 4}),
        (44, {"max_steps": 7, "gradient_accumulation_steps": 4, "dataloader_drop_last": True}),
        (40, {"max_steps": 7, "gradient_accumulation_steps": 2}),
        (48, {"max_steps": 9}),
        (5, {"max_steps": 3}),
        (5, {"num_train_epochs": 2, "gradient_accumulation_steps": 4}),
    ],
)
def test_counts_are_those_of_a_real_training(rows: int, arguments: dict[str, Any], tmp_path: Path) -> None:
    import_unsloth()
    known = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, **arguments}
    steps, epochs, fed = _trained(rows, known, tmp_path)
    assert steps_of(known, rows) == steps
    assert epochs_of(known, rows, steps) == pytest.approx(epochs)
    assert passes(known, rows, steps) * rows == pytest.approx(fed)


def test_prompts_that_are_left_out_of_an_epoch_are_not_counted() -> None:
    # 8 answers at a time are 2 prompts: of 7 prompts an epoch sees 6, in 3 steps.
    known = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_generations": 4}
    assert steps_an_epoch(known, 7) == 3
    assert passes(known, 7, 6) == pytest.approx(12 / 7)
    assert passes({**known, "num_iterations": 2}, 7, 6) == pytest.approx(6 / 7)
    assert epochs_of({**known, "num_iterations": 2}, 7, 6) == 1
