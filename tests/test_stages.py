"""A run as the model of the next: what is trained on is what was trained, and the line of runs is known."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import fastft
from fastft.errors import ModelError, RecipeError
from fastft.files import sha256_of
from fastft.stages import lineage, prepare_stage, stage_at, stage_folder

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "recipes" / "data"


def _train(model: str, place: Path, method: str, data: str, **export: Any) -> fastft.Run:
    recipe = {
        "model": {"model_name": model, "max_seq_length": 128},
        "lora": {"r": 4, "lora_alpha": 8, "use_gradient_checkpointing": False},
        "data": {"path": str(DATA / data), "eval_split": 6},
        "method": method,
        "training": {"max_steps": 12, "per_device_train_batch_size": 8, "learning_rate": 2e-3, "warmup_steps": 1},
        "evaluation": {"prompts": ["Hello!"], "max_new_tokens": 4},
        "export": {"formats": [], **export},
    }
    return fastft.train(recipe, output_dir=place)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> list[fastft.Run]:
    """Three stages, each on the run before."""
    place = tmp_path_factory.mktemp("runs")
    first = _train("fastft/tiny", place / "first", "sft", "quickstart.jsonl")
    second = _train(str(first.directory), place / "second", "sft", "quickstart.jsonl")
    third = _train(
        str(second.directory), place / "third", "dpo", "preference_tiny.jsonl", formats=["merged_16bit"], verify=False
    )
    return [first, second, third]


@pytest.mark.slow
def test_the_last_manifest_names_every_run_of_the_chain(chain: list[fastft.Run]) -> None:
    first, second, third = chain
    line = third.manifest()["lineage"]
    assert [(entry["run"], entry["method"]) for entry in line] == [
        ("first", "sft"),
        ("second", "sft"),
        ("third", "dpo"),
    ]
    assert line[0]["from"] == {"model": "fastft/tiny"}
    assert [entry.get("manifest_sha256") for entry in line] == [
        sha256_of(first.manifest_path), sha256_of(second.manifest_path), None,
    ]  # fmt: skip
    assert line[0]["directory"] == str(first.directory)


@pytest.mark.slow
def test_the_merged_export_is_the_adapters_applied_in_order(chain: list[fastft.Run], tiny: Path) -> None:
    """W + BA in float32, rounded to bfloat16 after each stage, bit by bit."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(tiny / "model.safetensors")
    for run in chain:
        adapter = load_file(run.adapter / "adapter_model.safetensors")
        config = json.loads((run.adapter / "adapter_config.json").read_text())
        scaling = config["lora_alpha"] / config["r"]
        for name in [key for key in adapter if key.endswith("lora_A.weight")]:
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            a, b = adapter[name].float(), adapter[name.replace("lora_A", "lora_B")].float()
            merged = weights[f"{module}.weight"].float() + scaling * (b @ a)
            weights[f"{module}.weight"] = merged.to(torch.bfloat16)
    exported = load_file(chain[-1].exports / "merged_16bit" / "model.safetensors")
    assert set(exported) == set(weights)
    assert [name for name in weights if not torch.equal(weights[name], exported[name])] == []
    assert not torch.equal(
        exported["model.layers.0.mlp.up_proj.weight"],
        load_file(tiny / "model.safetensors")["model.layers.0.mlp.up_proj.weight"],
    )


@pytest.mark.slow
def test_a_stage_is_its_merged_model_and_a_changed_one_is_refused(chain: list[fastft.Run]) -> None:
    _, second, third = chain
    assert stage_folder(second, weights=True) == second.exports / "merged_16bit"
    assert third.manifest()["model"]["model_name"] == str(second.directory)
    merged = second.exports / "merged_16bit" / "model.safetensors"
    whole = merged.read_bytes()
    merged.write_bytes(whole[:-4] + b"\0\0\0\1")
    with pytest.raises(ModelError, match=r"has changed since the training: model.safetensors is not the file"):
        third.chat("Hello!")
    merged.rename(merged.with_suffix(".gone"))
    with pytest.raises(ModelError, match=r"model.safetensors is gone|lacks|no .*safetensors"):
        third.chat("Hello!")
    merged.write_bytes(whole)
    assert third.chat("Hello!", max_new_tokens=4)


@pytest.mark.slow
def test_a_merge_that_failed_its_proof_or_was_changed_speaks_each_time(chain: list[fastft.Run]) -> None:
    run = chain[0]
    merged = run.exports / "merged_16bit"
    proof, output = merged / "verification.json", io.StringIO()
    passed = proof.read_text()
    proof.write_text(json.dumps(json.loads(passed) | {"passed": False}))
    prepare_stage(str(run.directory), Console(file=output))
    assert "first merged into 16 bits differs from what was trained" in output.getvalue().replace("\n", " ")
    proof.write_text(passed)
    config = (merged / "config.json").read_text()
    (merged / "config.json").write_text(config + " ")
    with pytest.raises(ModelError, match=r"config\.json is not the file that was exported"):
        prepare_stage(str(run.directory), Console(file=output))
    (merged / "config.json").write_text(config)


@pytest.mark.slow
def test_a_check_of_the_next_stage_needs_no_weights(chain: list[fastft.Run]) -> None:
    """The third run was never merged for training: its small files are enough to check a recipe on it."""
    run = chain[0]
    merged = run.exports / "merged_16bit"
    aside = merged.rename(run.directory / "aside")
    try:
        folder = stage_folder(run, weights=False)
        assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= {path.name for path in folder.iterdir()}
        assert not list(folder.glob("*.safetensors"))
        with pytest.raises(ModelError, match="has no merged model"):
            stage_folder(run, weights=True)
    finally:
        aside.rename(merged)


def test_an_unfinished_run_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("method: sft\n")
    with pytest.raises(ModelError, match="has not finished training"):
        stage_at(tmp_path)
    assert stage_at(tmp_path / "elsewhere") is None


def test_a_run_that_is_not_there_yet_is_told_without_asking_the_hub() -> None:
    from fastft.model_files import resolve_model

    with pytest.raises(ModelError, match="there is no run runs/no-such-stage yet"):
        resolve_model("runs/no-such-stage", weights=False)


def test_a_judge_that_is_not_there_yet_is_told_by_check() -> None:
    recipe = {
        "model": {"model_name": "fastft/tiny", "max_seq_length": 128},
        "lora": {"r": 4},
        "data": {"path": str(DATA / "online_tiny.jsonl"), "format": "prompt_only"},
        "method": "grpo",
        "rewards": [{"run": "runs/no-such-judge"}],
    }
    with pytest.raises(RecipeError, match="there is no run runs/no-such-judge yet"):
        fastft.check(recipe)


def test_a_line_of_runs_without_ancestors_names_itself() -> None:
    assert lineage("one", "sft", {"model": "fastft/tiny"}) == [
        {"run": "one", "method": "sft", "from": {"model": "fastft/tiny"}}
    ]


@pytest.mark.slow
def test_the_adapter_of_a_stage_is_gone_on_with(chain: list[fastft.Run]) -> None:
    """Its configuration names the merged folder, the recipe the run before: they are the same base."""
    first, second, _ = chain
    recipe = {
        "model": {"model_name": str(first.directory), "max_seq_length": 128},
        "lora": {"adapter_name_or_path": str(second.directory)},
        "data": {"path": str(DATA / "quickstart.jsonl")},
        "training": {"max_steps": 1},
    }
    assert fastft.check(recipe).recipe.lora.r == 4  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match=f"an adapter on {first.directory}"):
        fastft.check(recipe | {"model": {"model_name": "fastft/tiny", "max_seq_length": 128}})
