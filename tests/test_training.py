"""Training for real, on the CPU: what a run leaves behind, and that an interrupted one ends at the same weights."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import fastft
from fastft.errors import DatasetError, ModelError, RecipeError, TrainingError
from fastft.files import sha256_of
from fastft.model_files import resolve_model

pytestmark = pytest.mark.slow


def _recipe(data: Path, **training: Any) -> dict[str, Any]:
    return {
        "model": {"model_name": "fastft/tiny", "max_seq_length": 128},
        "lora": {"r": 8, "use_gradient_checkpointing": False},
        "data": {"path": str(data), "eval_split": 4},
        "method": "sft",
        "training": {"max_steps": 6, "save_steps": 3, "per_device_train_batch_size": 4, **training},
        "evaluation": {"prompts": ["Hello!"], "samples": 2, "max_new_tokens": 8},
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Say the number {n}."},
                {"role": "assistant", "content": f"The number is {n}."},
            ]
        }
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(scope="module")
def run(data: Path, output: io.StringIO, tmp_path_factory: pytest.TempPathFactory) -> fastft.Run:
    place = tmp_path_factory.mktemp("runs") / "first"
    return fastft.train(_recipe(data), output_dir=place, console=Console(file=output, width=120))


def test_a_run_holds_all_that_it_should(run: fastft.Run) -> None:
    names = {path.name for path in run.directory.iterdir()}
    expected = {"recipe.yaml", "manifest.json", "metrics.jsonl", "train.log", "checkpoints", "adapter"}
    expected |= {"fast_path.json", "heartbeat.json", "history.jsonl"}
    assert expected | {"start.json", "heldout.jsonl", "audit.json", "evaluation.json"} == names
    adapter = {path.name for path in run.adapter.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"} <= adapter


def test_the_model_card_is_written_from_the_run(run: fastft.Run) -> None:
    from fastft.exporters.card import model_card
    from fastft.exporters.source import Trained

    folders = [run.exports / "merged_16bit"]
    card = model_card("merged_16bit", "me/parrot", folders, Trained.of_run(run), run.manifest_path)
    data, after = run.manifest()["data"], run.manifest()["evaluation"]["after"]
    assert "chats.jsonl (messages): 40 rows, 36 to train on, 4 held out; " in card
    assert f"{data['train']['tokens']:,} tokens, " in card
    assert f"| {after['loss']:.4g} |" in card
    assert "max_steps: 6" in card
    assert f"torch {run.manifest()['versions']['torch']}" in card
    assert str(run.directory.parent) not in card  # folders of the machine are nobody's business


def test_the_manifest_tells_the_run_and_its_hashes_hold(run: fastft.Run) -> None:
    manifest = run.manifest()
    assert manifest["model"]["model_name"] == "fastft/tiny"
    packaged = resolve_model("fastft/tiny", weights=True)
    files = {name: sha256_of(packaged / name) for name in ("config.json", "model.safetensors")}
    assert manifest["model"]["base"] == {"model_name": "fastft/tiny", "commit": None, "files": files}
    assert manifest["training"]["steps"] == 6
    assert manifest["seeds"] == {"training": 3407, "lora": 3407}
    assert len(manifest["data"]["fingerprint"]) == 64
    assert len(manifest["template_sha256"]) == 64
    assert manifest["files"]["adapter/adapter_model.safetensors"]
    for name, digest in manifest["files"].items():
        assert sha256_of(run.directory / name) == digest, name


def test_every_step_is_a_point_in_the_metrics(run: fastft.Run) -> None:
    points = [point for point in run.metrics() if "loss" in point]
    assert [point["step"] for point in points] == [1, 2, 3, 4, 5, 6]
    assert all(point["tokens_per_second"] > 0 for point in points)


def test_held_out_rows_are_kept_and_not_trained_on(run: fastft.Run) -> None:
    held_out = [json.loads(line) for line in run.heldout_path.read_text().splitlines()]
    assert len(held_out) == 4
    assert run.manifest()["data"]["train"]["rows"] == 36


def test_the_chatter_of_libraries_is_in_the_log_and_not_on_the_terminal(run: fastft.Run, output: io.StringIO) -> None:
    chatter = "Unsloth (CPU): "  # said at every loading; bars are shown or not by what ran before in the process
    assert chatter in run.log_path.read_text()
    shown = output.getvalue()
    assert chatter not in shown
    assert "step 6/6" in shown


def test_the_adapter_really_changes_the_model(run: fastft.Run) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(run.adapter / "adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float32"}


def test_a_second_run_of_the_same_name_leaves_the_first_alone(run: fastft.Run, data: Path) -> None:
    before = sha256_of(run.manifest_path)
    second = fastft.train(_recipe(data, max_steps=1), output_dir=run.directory, console=Console(file=io.StringIO()))
    assert second.directory.name == "first-2"
    assert sha256_of(run.manifest_path) == before


def test_interrupted_and_resumed_ends_at_the_same_bytes(
    run: fastft.Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fastft.progress

    whole = fastft.progress.progress_callback

    def interrupting(*args: Any, **options: Any) -> Any:
        callback = whole(*args, **options)

        def on_step_begin(args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG001
            if state.global_step == 5:
                raise KeyboardInterrupt

        callback.on_step_begin = on_step_begin
        return callback

    quiet = Console(file=io.StringIO())
    with monkeypatch.context() as patch:
        patch.setattr(fastft.progress, "progress_callback", interrupting)
        with pytest.raises(TrainingError, match="stopped at step 5 of 6: interrupted") as caught:
            fastft.train(_recipe(data), output_dir=tmp_path / "run", console=quiet)
    assert "from step 3" in caught.value.hint
    assert not (tmp_path / "run" / "manifest.json").exists()

    resumed = fastft.train(_recipe(data), output_dir=tmp_path / "run", resume=True, console=quiet)
    assert resumed.directory == tmp_path / "run"
    weights = "adapter/adapter_model.safetensors"
    assert resumed.manifest()["files"][weights] == run.manifest()["files"][weights]
    assert [p["step"] for p in resumed.metrics() if "loss" in p] == [1, 2, 3, 4, 5, 6]
    assert [p["loss"] for p in resumed.metrics() if "loss" in p] == [p["loss"] for p in run.metrics() if "loss" in p]


def test_a_run_of_other_data_is_not_gone_on_with_by_itself(data: Path, tmp_path: Path) -> None:
    from fastft.run import Run

    recipe = {**_recipe(data, max_steps=1), "output_dir": str(tmp_path / "run")}
    begun = Run.create(tmp_path / "run", fastft.check(recipe).recipe.to_yaml())
    begun.audit_path.write_text('{"examples_sha256": "of other rows", "fingerprint": ""}')
    assert fastft.train(recipe, console=Console(file=io.StringIO())).directory == tmp_path / "run-2"
    begun.audit_path.unlink()
    assert fastft.train(recipe, console=Console(file=io.StringIO())).directory == begun.directory


def test_a_resumed_run_is_found_by_a_recipe_that_leaves_the_length_to_the_model(data: Path, tmp_path: Path) -> None:
    from fastft.resume import run_to_resume
    from fastft.run import Run

    recipe = _recipe(data) | {"model": {"model_name": "fastft/tiny"}, "output_dir": str(tmp_path / "run")}
    run = Run.create(tmp_path / "run", fastft.check(recipe).recipe.to_yaml())
    assert run_to_resume(recipe, ()).run == run


def test_a_resumed_run_keeps_the_arguments_and_the_base_it_began_with(tmp_path: Path) -> None:
    from fastft.base_identity import BaseIdentity
    from fastft.resume import keep_start
    from fastft.run import Run

    run = Run.create(tmp_path / "run", "")
    base = BaseIdentity("a/b", None, {"model.safetensors": "1"})
    assert keep_start(run, {"optim": "first"}, base, resumed=False) == {"optim": "first"}
    assert keep_start(run, {"optim": "chosen by a later version"}, base, resumed=True) == {"optim": "first"}
    keep_start(run, {}, BaseIdentity("a/b-bnb-4bit", None, {"model.safetensors": "2"}), resumed=True)  # not compared
    with pytest.raises(ModelError, match=r"a/b has changed since the training: model\.safetensors is not the file"):
        keep_start(run, {}, BaseIdentity("a/b", None, {"model.safetensors": "2"}), resumed=True)


def test_resuming_refuses_another_recipe_and_other_data(data: Path, tmp_path: Path) -> None:
    from fastft.run import Run

    moved = tmp_path / "chats.jsonl"
    moved.write_text(data.read_text())
    recipe = fastft.load_recipe(_recipe(moved))
    Run.create(tmp_path / "run", recipe.to_yaml())
    with pytest.raises(RecipeError, match=r"training\.max_steps: was 6 and is 5\. a run can be made longer"):
        fastft.train(_recipe(moved, max_steps=5), output_dir=tmp_path / "run", resume=True)
    from fastft.same_data import guard_same_data

    guard_same_data(Run(tmp_path / "run"), {"fingerprint": "a", "examples_sha256": "a"}, resumed=False)
    with pytest.raises(DatasetError, match="the data is another than when"):
        fastft.train(_recipe(moved), output_dir=tmp_path / "run", resume=True, console=Console(file=io.StringIO()))
