"""RLOO: TRL's own losses to the fifth digit, on our ids; its steps, and going on where it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from fastft.backend import import_unsloth
from fastft.trainers.defaults import steps_of
from fastft.trainers.measuring import measure
from tests.trainers import online_cases as cases

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def unsloth() -> None:
    import_unsloth()


def _ours(tiny: Path, folder: Path, arguments: dict[str, Any] | None = None) -> Any:
    from fastft.trainers.rloo import build_trainer

    folder.mkdir(exist_ok=True)
    return build_trainer(cases.job_of_rows(tiny, arguments or {}, folder, cases.our_rewards(folder)))


@pytest.mark.parametrize("arguments", [{"beta": 0.0}, {"beta": 0.05, "normalize_advantages": True}])
def test_losses_are_those_of_trl(tiny: Path, tmp_path: Path, arguments: dict[str, Any]) -> None:
    import torch
    from trl import RLOOConfig, RLOOTrainer  # pyright: ignore[reportPrivateImportUsage]

    theirs = cases.trl_trainer(tiny, arguments, tmp_path, RLOOTrainer, RLOOConfig)
    theirs.train()
    ours = _ours(tiny, tmp_path / "ours", arguments)
    assert "ref" not in ours.model.peft_config
    ours.train()
    logged = cases.losses(ours)
    assert len(logged) == 3
    for ours_at, theirs_at in zip(logged, cases.losses(theirs), strict=True):
        assert ours_at == pytest.approx(theirs_at, abs=1e-5)
    assert any(abs(entry["grad_norm"]) > 1e-3 for entry in logged)
    other = cases.adapter_of(theirs)
    for name, weight in cases.adapter_of(ours).items():
        assert torch.allclose(weight, other[name], atol=1e-5), name


def test_a_resumed_run_ends_as_one_that_was_not(tiny: Path, tmp_path: Path) -> None:
    """Its third step of four is the first of the second epoch."""
    import torch

    arguments = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "beta": 0.05}
    whole = _ours(tiny, tmp_path / "whole", arguments)
    whole.train()
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    again = cases.resumed_from(lambda folder: _ours(tiny, folder, arguments), tmp_path / "again", 3)
    assert cases.completions_in(tmp_path / "again") == cases.completions_in(tmp_path / "whole")
    other = cases.adapter_of(whole)
    assert all(torch.equal(weight, other[name]) for name, weight in cases.adapter_of(again).items())


def test_measuring_leaves_training_as_it_was(tiny: Path, tmp_path: Path) -> None:
    plain = _ours(tiny, tmp_path / "plain")
    plain.train()
    measured = _ours(tiny, tmp_path / "measured")
    found = measure(measured)
    assert 0 <= found["reward"] <= 1.5
    measured.train()
    assert cases.losses(measured) == cases.losses(plain)


@pytest.mark.parametrize("arguments", [{"num_iterations": 2}, {"generation_batch_size": 16, "num_train_epochs": 3}])
def test_the_planned_steps_are_the_trainers(tiny: Path, tmp_path: Path, arguments: dict[str, Any]) -> None:
    given = {**cases.ARGUMENTS, "num_train_epochs": 1, "max_steps": -1, **arguments}
    trainer = _ours(tiny, tmp_path, given)
    *_, max_steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    assert steps_of(given, len(cases.ROWS)) == max_steps
