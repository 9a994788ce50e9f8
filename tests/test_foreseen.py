"""`check` and `--dry-run` tell where `train` would go, as `train` decides it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import fastft
from fastft.cli import main
from fastft.files import write_json
from fastft.heartbeat import alone_in_run
from fastft.run import Run
from tests.short_runs import recipe_of, write_chats
from tests.test_changes import BASE, STEPS

Ask = Callable[..., str]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """What a command says of a recipe whose run began in `run` and is unfinished."""
    path = tmp_path / "recipe.yaml"
    recipe = recipe_of(write_chats(tmp_path / "rows.jsonl"), training={"max_steps": STEPS})
    path.write_text(yaml.safe_dump({**recipe, "output_dir": str(tmp_path / "run")}))
    run = Run.create(tmp_path / "run", fastft.load_recipe(path).to_yaml())
    write_json(run.start_path, {"arguments": {"max_steps": STEPS, "learning_rate": 5e-3}, "base": BASE})

    def asked(command: str, *words: str, code: int = 0) -> str:
        done = CliRunner().invoke(main, [command, str(path), *words])
        assert done.exit_code == code, done.output
        return " ".join(done.output.split())

    return asked


def test_an_unfinished_run_of_the_recipe_would_go_on(ask: Ask, tmp_path: Path) -> None:
    going_on = f"would go on with {tmp_path / 'run'} from the first step"
    assert f"{going_on}; --new begins another" in ask("check")
    assert f"{going_on}; --new begins another" in ask("train", "--dry-run")
    assert going_on in ask("train", "--dry-run", "--resume")
    said = CliRunner().invoke(main, ["train", str(tmp_path / "run"), "--resume", "--dry-run"])
    assert going_on in " ".join(said.output.split())


def test_another_recipe_or_new_would_begin_another(ask: Ask, tmp_path: Path) -> None:
    for words in (("train", "--dry-run", "--new"), ("check", "training.learning_rate=0.1")):
        assert f"would go to {tmp_path / 'run-2'}" in ask(*words)
    assert "was 0.005 and is 0.1" in ask("train", "training.learning_rate=0.1", "--resume", "--dry-run", code=2)


def test_one_in_training_would_be_refused(ask: Ask, tmp_path: Path) -> None:
    with alone_in_run(tmp_path / "run"):
        assert "would be refused now:" in ask("check")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml", "rows.jsonl", "run"]
