"""A run goes on with another recipe only where that changes nothing it has learned; then it is recorded and said."""

from __future__ import annotations

import contextlib
import getpass
import io
import json
import platform
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

import fastft
from fastft.base_identity import BaseIdentity
from fastft.changes import Change, changes_of, keep_changes, require_may
from fastft.errors import ModelError, RecipeError, TrainingError
from fastft.files import sha256_of, write_json
from fastft.heartbeat import alone_in_run
from fastft.own_code import keep_code
from fastft.recipe.schema import Recipe
from fastft.resume import keep_start, run_to_resume, unfinished_twin
from fastft.run import Run
from fastft.run_files import read_start, write_start
from tests.short_runs import recipe_of, train, write_chats

STEPS = 6
BASE = {"model_name": "m", "commit": None, "files": {}}


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    return recipe_of(write_chats(tmp_path / "rows.jsonl"), training={"max_steps": STEPS})


@pytest.fixture
def run(recipe: dict[str, Any], tmp_path: Path) -> Run:
    """One that began with STEPS steps, and of which nothing else is known."""
    run = Run.create(tmp_path / "run", fastft.load_recipe(recipe, [f"output_dir={tmp_path / 'run'}"]).to_yaml())
    write_json(run.start_path, {"arguments": {"max_steps": STEPS, "learning_rate": 5e-3}, "base": BASE})
    return run


MAY: dict[str, tuple[str, object, object]] = {
    "training.max_steps=9": ("training.max_steps", STEPS, 9),
    "training.save_steps=2": ("training.save_steps", None, 2),
    "training.save_total_limit=5": ("training.save_total_limit", None, 5),
    "training.logging_steps=2": ("training.logging_steps", 1, 2),
    "training.report_to=none": ("training.report_to", None, "none"),
    "export.formats=[adapter]": ("export.formats", [], ["adapter"]),
    "evaluation.prompts=[Hello!]": ("evaluation.prompts", [], ["Hello!"]),
}
MAY_NOT: dict[str, tuple[str, str]] = {
    "training.max_steps=5": ("training.max_steps: was 6 and is 5", "a run can be made longer, not shorter"),
    "training.num_train_epochs=9": ("training.num_train_epochs: was nothing and is 9", "learned otherwise"),
    "training.learning_rate=0.1": ("training.learning_rate: was 0.005 and is 0.1", "learned otherwise"),
    "training.seed=1": ("training.seed: was nothing and is 1", "learned otherwise"),
    "lora.r=16": ("lora.r: was 8 and is 16", "learned otherwise"),
    "data.eval_split=5": ("data.eval_split: was 4 and is 5", "learned otherwise"),
    "model.max_seq_length=64": ("model.max_seq_length: was 128 and is 64", "learned otherwise"),
}


@pytest.mark.parametrize("override", MAY)
def test_what_may_change(override: str, run: Run) -> None:
    going_on = run_to_resume(run.directory, [override])
    assert going_on.run == run
    assert going_on.changes == (Change(*MAY[override]),)


@pytest.mark.parametrize("override", MAY_NOT)
def test_what_may_not_is_told_with_both_values(override: str, run: Run) -> None:
    with pytest.raises(RecipeError) as refused:
        run_to_resume(run.directory, [override])
    assert refused.value.exit_code == 2
    for told in MAY_NOT[override]:
        assert told in str(refused.value)
    assert f"fastft train {run.directory} --resume" in refused.value.hint


def test_by_itself_only_what_does_not_touch_the_training(run: Run, recipe: dict[str, Any]) -> None:
    where = f"output_dir={run.directory}"
    twin = unfinished_twin(recipe, [where, "export.formats=[adapter]"])
    assert twin is not None
    assert [str(change) for change in twin.changes] == ["export.formats [] → ['adapter']"]
    assert unfinished_twin(recipe, [where, "training.max_steps=9"]) is None
    told: list[str] = []
    assert unfinished_twin(recipe, [where, "training.learning_rate=0.1"], told.append) is None
    assert unfinished_twin(recipe, [where, "training.max_steps=9"], told.append) is None
    assert told == [
        f"{run.directory} is unfinished, and its recipe another: training.learning_rate 0.005 → 0.1; a new run begins",
        f"{run.directory} is unfinished, and its recipe another: training.max_steps 6 → 9; "
        "--resume goes on with it; without, a new run begins",
    ]


def test_by_itself_the_newest_of_the_same_recipe(run: Run, recipe: dict[str, Any]) -> None:
    """Another unfinished run lies beside it, or one that is being trained."""
    where, told = f"output_dir={run.directory}", []
    other = fastft.load_recipe(recipe, ["training.learning_rate=0.1", where])
    second = Run.create(run.directory, other.to_yaml())
    assert second.directory.name == "run-2"
    for rate, expected in ((5e-3, run), (0.1, second)):
        twin = unfinished_twin(recipe, [where, f"training.learning_rate={rate}"])
        assert twin is not None
        assert twin.run == expected
    with alone_in_run(second.directory):
        twin = unfinished_twin(recipe, [where], told.append)
    assert twin is not None
    assert twin.run == run
    assert len(told) == 1
    assert "run-2 is being trained now" in told[0]
    third = Run.create(run.directory, run.recipe_path.read_text())
    with (
        alone_in_run(third.directory),
        pytest.raises(TrainingError, match="run-3 is being trained now by the same recipe: process"),
    ):
        unfinished_twin(recipe, [where])


def test_files_may_lie_elsewhere(run: Run, tmp_path: Path) -> None:
    """As after a machine was rented anew: what they hold is compared by its hashes."""
    for name in ("new", "new/tiny", "tiny"):
        (tmp_path / name).mkdir()
    for name in ("rows.jsonl", "others.jsonl"):
        write_chats(tmp_path / "new" / name)
    going_on = run_to_resume(run.directory, [f"data.path={tmp_path}/new/rows.jsonl"])
    assert going_on.changes == (Change("data.path", f"{tmp_path}/rows.jsonl", f"{tmp_path}/new/rows.jsonl"),)
    with pytest.raises(RecipeError, match=r"data\.path: was .* learned otherwise"):
        run_to_resume(run.directory, [f"data.path={tmp_path}/new/others.jsonl"])
    mixed = [{"path": f"{tmp_path}/rows.jsonl", "weight": 2.0}], [{"path": "/a/rows.jsonl", "weight": 2.0}]
    assert Change("data.path", *mixed).why_not() is None
    assert Change("data.path", mixed[0], [{"path": "/a/rows.jsonl", "weight": 1.0}]).why_not() is not None
    assert Change("callbacks", ["/a/x.py:Sent"], ["/b/x.py:Sent"]).why_not() is None
    assert Change("rewards", [{"run": "/a/judge"}], [{"run": "/b/judge"}]).why_not() is not None
    assert Change("lora.adapter_name_or_path", "/a/run", "/b/run").why_not() is not None


def test_code_that_was_moved_and_changed_is_told(run: Run, recipe: dict[str, Any], tmp_path: Path) -> None:
    told = []
    for folder, text in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text(f"class Sent: number = {text}")
        told.append(keep_code(run, fastft.load_recipe({**recipe, "callbacks": [f"{tmp_path}/{folder}/own.py:Sent"]})))
    assert told[:2] == [[], []]
    assert told[2] == [
        f"{tmp_path}/c/own.py:Sent was changed since this run began; the steps from here on run it as it is now"
    ]


def test_a_base_that_was_moved_is_compared_all_the_same(run: Run) -> None:
    base = BaseIdentity("/old/tiny", None, {"model.safetensors": "1"})
    write_json(run.start_path, {"arguments": {}, "base": base.as_dict()})
    with pytest.raises(ModelError, match="is not the file that was trained on"):
        keep_start(run, {}, BaseIdentity("/new/tiny", None, {"model.safetensors": "2"}), resumed=True)
    assert json.loads(run.start_path.read_text())["base"] == base.as_dict()
    moved = BaseIdentity("/new/tiny", None, {"model.safetensors": "1"})
    keep_start(run, {}, moved, resumed=True)
    assert json.loads(run.start_path.read_text())["base"] == moved.as_dict()


def test_a_run_goes_on_where_it_is(run: Run) -> None:
    with pytest.raises(RecipeError, match="can't be given another output_dir"):
        run_to_resume(run.directory, ["output_dir=elsewhere"])


def test_the_epochs_that_were_chosen_can_be_raised(recipe: dict[str, Any], tmp_path: Path) -> None:
    del recipe["training"]["max_steps"]
    run = Run.create(tmp_path / "run", fastft.load_recipe(recipe).to_yaml())
    write_json(run.start_path, {"arguments": {"num_train_epochs": 3}, "base": BASE})
    going_on = run_to_resume(run.directory, ["training.num_train_epochs=5"])
    assert going_on.changes == (Change("training.num_train_epochs", 3, 5),)
    with pytest.raises(RecipeError, match="was 3 and is 2"):
        run_to_resume(run.directory, ["training.num_train_epochs=2"])


def test_a_finished_training_takes_other_exports_and_no_more_steps(run: Run) -> None:
    run.write_manifest({"model": {"model_name": "m", "revision": None, "base": BASE}, "files": {"recipe.yaml": "0"}})
    with pytest.raises(RecipeError, match=r"is finished, so training\.max_steps 6 → 9 can't be applied") as refused:
        run_to_resume(run.directory, ["training.max_steps=9"])
    assert f"lora.adapter_name_or_path={run.directory}" in refused.value.hint
    _keep(run, fastft.load_recipe(run.recipe_path, ["export.formats=[adapter]"]))
    assert run.manifest()["files"] == {path.name: sha256_of(path) for path in (run.recipe_path, run.start_path)}


def _keep(run: Run, recipe: Recipe) -> None:
    changes = changes_of(run, recipe)
    require_may(run, changes)
    keep_changes(run, recipe, changes)


def test_changes_are_kept_with_who_and_when(run: Run) -> None:
    former = run.recipe_path.read_bytes()
    _keep(run, fastft.load_recipe(run.recipe_path, ["training.max_steps=9", "output_dir=elsewhere"]))
    second = run.recipe_path.read_bytes()
    _keep(run, fastft.load_recipe(run.recipe_path, ["export.formats=[adapter]"]))
    assert (run.directory / "former_recipe-1.yaml").read_bytes() == former
    assert (run.directory / "former_recipe-2.yaml").read_bytes() == second
    now = yaml.safe_load(run.recipe_path.read_text())
    assert (now["training"]["max_steps"], now["export"]["formats"]) == (9, ["adapter"])
    assert now["output_dir"] == str(run.directory)
    notes = json.loads(run.start_path.read_text())["changed"]
    assert [note["changes"] for note in notes] == [
        {"training.max_steps": {"was": 6, "now": 9}},
        {"export.formats": {"was": [], "now": ["adapter"]}},
    ]
    assert {note["by"] for note in notes} == {f"{getpass.getuser()}@{platform.node()}"}
    assert {note["step"] for note in notes} == {0}


def test_a_recipe_that_is_none_any_more(run: Run) -> None:
    run.recipe_path.write_text("training: [")
    with pytest.raises(RecipeError):
        run_to_resume(run.directory, ())


@pytest.mark.slow
def test_a_longer_run_follows_the_longer_schedule_from_the_checkpoint_on(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    """Stopped as by a fault after step 4 of 6 (a checkpoint every 2), then 6 → 8 steps and an export more."""
    recipe["training"] |= {"save_steps": 2, "warmup_steps": 0}
    (tmp_path / "fault.py").write_text(
        "from transformers import TrainerCallback\n"
        "class Fault(TrainerCallback):\n"
        "    def on_step_begin(self, args, state, control, **kwargs):\n"
        "        if state.global_step == 4 and state.max_steps == 6:\n"
        "            raise OSError('pulled')\n"
    )
    recipe["callbacks"] = [f"{tmp_path}/fault.py:Fault"]
    with pytest.raises(TrainingError, match="step 4 of 6: OSError: pulled"):
        train(recipe, tmp_path / "run")
    said = io.StringIO()
    run = fastft.train(
        tmp_path / "run", ["training.max_steps=8", "export.formats=[adapter]"], resume=True,
        console=Console(file=said, width=200),
    )  # fmt: skip
    assert (
        "changed: export.formats [] → ['adapter'], training.max_steps 6 → 8; the learning rate follows the schedule of "
        "the longer run from here on" in " ".join(said.getvalue().split())
    )
    rates = {point["step"]: point["learning_rate"] for point in run.metrics() if "loss" in point}
    expected = {step: 5e-3 * ((6 if step <= 4 else 8) - step + 1) / (6 if step <= 4 else 8) for step in range(1, 9)}
    assert rates == pytest.approx(expected, rel=1e-9)
    assert run.manifest()["training"]["steps"] == 8
    assert run.manifest()["arguments"]["max_steps"] == 8
    assert [path.name for path in run.exports.iterdir()] == ["adapter"]


def _edited(run: Run, **training: Any) -> None:
    """As somebody who opens the run's recipe.yaml in an editor."""
    content = yaml.safe_load(run.recipe_path.read_text())
    content["training"] |= training
    run.recipe_path.write_text(yaml.safe_dump(content))


@pytest.fixture
def begun(recipe: dict[str, Any], tmp_path: Path) -> Run:
    """As `run`, by the fastft of today."""
    loaded = fastft.load_recipe(recipe, [f"output_dir={tmp_path / 'run'}"])
    run = Run.create(tmp_path / "run", loaded.to_yaml())
    arguments = {"max_steps": STEPS, "learning_rate": 5e-3}
    keep_start(run, arguments, BaseIdentity("m", None, {}), resumed=False, recipe=loaded)
    return run


def test_the_recipe_in_a_runs_folder_is_no_back_door(begun: Run) -> None:
    assert run_to_resume(begun.directory, ()).changes == ()
    as_begun = begun.start_path.read_bytes()
    keep_start(begun, {}, BaseIdentity("m", None, {}), resumed=True, recipe=fastft.load_recipe(begun.recipe_path))
    assert begun.start_path.read_bytes() == as_begun
    _edited(begun, learning_rate=0.1, max_steps=5)
    with pytest.raises(RecipeError) as refused:
        run_to_resume(begun.directory, ())
    said = str(refused.value)
    assert "training.learning_rate: was 0.005 and is 0.1" in said
    assert "training.max_steps: was 6 and is 5" in said
    assert f"{begun.recipe_path} was edited since training began. Put the former values back" in said


def test_what_may_change_may_be_edited_there_too(begun: Run) -> None:
    _edited(begun, max_steps=9)
    going_on = run_to_resume(begun.directory, ())
    assert going_on.changes == (Change("training.max_steps", 6, 9),)
    going_on.adopt(Console(file=io.StringIO()))
    former = yaml.safe_load((begun.directory / "former_recipe-1.yaml").read_text())
    assert former["training"]["max_steps"] == 6
    assert json.loads(begun.start_path.read_text())["arguments"]["max_steps"] == 9
    assert json.loads(begun.start_path.read_text())["changed"][0]["changes"] == {
        "training.max_steps": {"was": 6, "now": 9}
    }
    assert run_to_resume(begun.directory, ()).changes == ()


def test_an_edited_start_is_refused(begun: Run) -> None:
    start = json.loads(begun.start_path.read_text())
    start["arguments"]["learning_rate"] = 0.02
    write_json(begun.start_path, start)
    with pytest.raises(TrainingError, match=r"start\.json was changed since training wrote it"):
        run_to_resume(begun.directory, ())


def test_one_begun_while_this_one_read_its_data_is_seen(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two calls of a scheduler within a second: both find no run, and one of them has made it by then."""
    from fastft import training

    recipe["output_dir"] = str(tmp_path / "run")
    check, begun = training.check, contextlib.ExitStack()

    def slow(*args: Any) -> Any:
        checked = check(*args)
        other = Run.create(tmp_path / "run", checked.recipe.to_yaml())
        begun.enter_context(alone_in_run(other.directory))
        return checked

    monkeypatch.setattr(training, "check", slow)
    with begun, pytest.raises(TrainingError, match="run is being trained now by the same recipe"):
        fastft.train(recipe, console=Console(file=io.StringIO()))
    assert not (tmp_path / "run-2").exists()


def test_arguments_of_any_keys_are_known_again(tmp_path: Path) -> None:
    path = tmp_path / "start.json"
    start = {"arguments": {"schedule": {10: 0.1, 9: 1e-5}, "name": "é", "top": float("inf")}, "base": BASE}
    write_start(path, start)
    assert read_start(path)["arguments"]["schedule"] == {"10": 0.1, "9": 1e-5}
