"""CPO's losses each train; SimPO and AlphaPO are computed as their papers write them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.preferences import job_on_tiny, pair_data

pytestmark = pytest.mark.slow

LOSSES: list[dict[str, Any]] = [
    {"loss_type": "sigmoid", "label_smoothing": 0.1},
    {"loss_type": "hinge"},
    {"loss_type": "ipo"},
    {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 1.0},
    {"loss_type": "alphapo", "alpha": 0.25},
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """What each of LOSSES measures on the rows it would learn, with the adapter as it starts."""
    from fastft.trainers.cpo import build_trainer
    from fastft.trainers.measuring import measure

    folder = tmp_path_factory.mktemp("cpo")
    job = job_on_tiny(pair_data(folder), folder, per_device_eval_batch_size=1)
    found = []
    for loss in LOSSES:
        arguments = {**job.arguments, **loss}
        trainer = build_trainer(type(job)(job.model, job.tokenizer, job.data, arguments, job.checkpoints))
        found.append(measure(trainer, trainer.train_dataset))
    return found


def test_every_loss_is_a_number_of_its_own(measured: list[dict[str, float]]) -> None:
    losses = [one["loss"] for one in measured]
    assert all(map(math.isfinite, losses))
    assert len({round(loss, 4) for loss in losses}) == len(LOSSES)


def test_simpo_is_about_the_mean_of_an_answers_tokens(measured: list[dict[str, float]], tmp_path: Path) -> None:
    """-log sigmoid(beta * (mean chosen - mean rejected) - gamma), in transformers, pair by pair."""
    import torch
    from transformers import AutoModelForCausalLM

    from fastft.model_files import resolve_model

    model = AutoModelForCausalLM.from_pretrained(resolve_model("fastft/tiny", weights=True), dtype=torch.float32)
    means = []
    for example in pair_data(tmp_path).train:
        ids, start = torch.tensor([example.input_ids]), example.labels.count(-100)
        with torch.no_grad():
            logs = torch.log_softmax(model(ids).logits[0, start - 1 : -1], dim=-1)
        means.append(logs.gather(-1, ids[0, start:, None]).mean())
    margins = 2.0 * (torch.stack(means[::2]) - torch.stack(means[1::2]))
    expected = -torch.nn.functional.logsigmoid(margins - 1.0).mean()
    assert measured[3]["loss"] == pytest.approx(float(expected), abs=1e-4)
    assert measured[3]["rewards/margins"] == pytest.approx(float(margins.mean()), abs=1e-3)
    assert measured[3]["rewards/accuracies"] == pytest.approx(float((margins > 0).float().mean()))
