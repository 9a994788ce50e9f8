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
from fastft.same_data import data_change
from tests.short_runs import recipe_of, write_chats
from tests.test_changes import BASE, STEPS

Ask = Callable[..., str]
ROW = '{"messages": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "It."}]}\n'


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


@pytest.mark.parametrize(
    ("more", "template", "told"),
    [
        (ROW, None, "rows.jsonl (messages) had 24 rows and has 25"),
        ("", None, "as many rows, with another text"),
        (None, "other", "the rows are the same, and the chat template makes other tokens of them"),
        (None, None, "the rows are the same, and the tokenizer, or another version of fastft, makes other tokens"),
    ],
)
def test_data_that_is_another_is_told_with_what_of_it(
    more: str | None, template: str | None, told: str, ask: Ask, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    audit = fastft.check(tmp_path / "recipe.yaml").data.audit.as_dict()
    write_json(tmp_path / "run" / "audit.json", audit)
    assert "would go on with" in ask("check")
    if more is None:  # as another tokenizer would have made it
        audit |= {"examples_sha256": "0"} | ({"template_sha256": template} if template else {})
        write_json(tmp_path / "run" / "audit.json", audit)
    else:
        rows.write_text(rows.read_text().replace("The number is 7.", "It is 7.") + more)
    assert f"would begin another: {tmp_path / 'run'} is unfinished and of other data ({told}" in ask("check")
    said = ask("train", "--dry-run", "--resume", code=2)
    assert f"the data is another than when {tmp_path / 'run'} began: {told}" in said


def test_a_file_that_is_gone_or_new_is_told(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write_json(run.audit_path, {"fingerprint": "1", "examples_sha256": "1", "sources": {"a": 1, "b": 2, "c": 3}})
    now = {"fingerprint": "2", "examples_sha256": "2", "sources": {"b": 1, "c": 3, "d": 4}}
    assert data_change(run, now) == "a is gone; b had 2 rows and has 1; d is new"
