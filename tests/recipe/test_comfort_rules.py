"""Early stopping, samples, callbacks, rates and trackers: what goes together, told before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fastft.recipe.load import load_recipe
from fastft.trackers import login_warnings
from tests.recipe.conftest import VALID, FaultsOf

EVAL = "  eval_split: 0.1\n"
BEST = "training:\n  eval_strategy: steps\n  load_best_model_at_end: true\n"

# added below VALID | where | part of found | part of expected or hint
CLASHES = [
    ("early_stopping: {}\n", "7 early_stopping", "without data.eval_split", "held-out rows"),
    (EVAL + "early_stopping: {patience: 2}\n", "8 early_stopping", "without evaluation", "steps or epoch"),
    (
        EVAL + "early_stopping: {}\ntraining:\n  eval_strategy: epoch\n",
        "8 early_stopping",
        "without the best model",
        "load_best_model_at_end: true",
    ),
    (EVAL + BEST + "  metric_for_best_model: lss\n", "11 training.metric_for_best_model", "lss", "Did you mean loss"),
    (
        EVAL + BEST + "  metric_for_best_model: rewards/margins\n",
        "11 training.metric_for_best_model",
        "which sft does not measure",
        "mean_token_accuracy",
    ),
    ("evaluation:\n  sample_steps: 5\n", "8 evaluation.sample_steps", "without evaluation.prompts", "prompts"),
    ("learning_rates: {'lm_head(': 1e-5}\n", "7 learning_rates", "", "unterminated subpattern"),
    ("learning_rates: {lm_head: 3}\n", "7 learning_rates", "found 3 for lm_head", "at most 1"),
    ("learning_rates: 5e-5\n", "7 learning_rates", "", "embed_tokens|lm_head: 5e-5"),
    ("early_stopping:\n  patience: 0\n", "8 early_stopping.patience", "found 0", "at least 1"),
    ("early_stopping:\n  patients: 3\n", "8 early_stopping.patients", "unknown key", "Did you mean patience"),
    ("callbacks: [nowhere.py:Mine]\n", "7 callbacks[0]", 'no file "nowhere.py"', "file.py:Name"),
    ("callbacks: [Mine]\n", "7 callbacks[0]", "Mine", "after a colon"),
]


@pytest.mark.parametrize(("added", "where", "found", "expected"), CLASHES)
def test_each_is_told(added: str, where: str, found: str, expected: str, faults_of: FaultsOf) -> None:
    fault = next(fault for fault in faults_of(added) if fault.where == f"recipe.yaml:{where}")
    assert found in fault.found
    assert expected in f"{fault.expected} {fault.hint}"


def test_a_metric_of_the_method_is_fine(write: Callable[[str], Path]) -> None:
    text = VALID + EVAL + BEST + "  metric_for_best_model: eval_rewards/margins\nmethod: dpo\nearly_stopping: {}\n"
    recipe = load_recipe(write(text))
    assert recipe.early_stopping is not None
    assert (recipe.early_stopping.patience, recipe.early_stopping.threshold) == (3, 0.0)


def test_nothing_under_early_stopping_is_none(write: Callable[[str], Path]) -> None:
    assert load_recipe(write(VALID + "early_stopping:\n")).early_stopping is None


def test_callbacks_are_read_and_not_run(write: Callable[[str], Path], tmp_path: Path, faults_of: FaultsOf) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit\nclass Mine: ...\ndef made(): ...\n")
    recipe = load_recipe(write(VALID + "callbacks: mine.py:Mine\n"))
    assert recipe.callbacks == (f"{tmp_path / 'mine.py'}:Mine",)
    assert "Did you mean Mine" in faults_of("callbacks: [mine.py:Mino]\n")[0].hint
    assert "is a function" in faults_of("callbacks: [mine.py:made]\n")[0].found
    (tmp_path / "mine.py").write_text("class Mine(:\n")
    assert "no valid Python at line 1" in faults_of("callbacks: [mine.py:Mine]\n")[0].found


def test_what_was_written_is_read_back(write: Callable[[str], Path]) -> None:
    added = EVAL + BEST + "early_stopping: {patience: 2}\nlearning_rates: {embed_tokens|lm_head: 5e-5}\n"
    recipe = load_recipe(write(VALID + added))
    assert load_recipe(write(recipe.to_yaml())) == recipe
    assert recipe.learning_rates == {"embed_tokens|lm_head": 5e-5}
    assert not {"early_stopping", "learning_rates", "callbacks"} & load_recipe(write(VALID)).as_dict().keys()


def test_a_tracker_without_a_key_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "COMET_API_KEY", "COMET_START_ONLINE"):
        monkeypatch.delenv(variable, raising=False)
    said = login_warnings(["wandb", "comet_ml", "tensorboard", "trackio", "mlflow"])
    assert len(said) == 2
    assert "set WANDB_API_KEY, run `wandb login` or set WANDB_MODE=offline" in said[0]
    assert "COMET_API_KEY" in said[1]
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert login_warnings("wandb") == []
    monkeypatch.delenv("WANDB_MODE")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password x\n")
    assert login_warnings("wandb") == []
    assert login_warnings("none") == login_warnings(None) == []
