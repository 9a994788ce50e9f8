"""How the model is loaded and what the LoRA starts from: what is saved is what was trained."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import fastft
from fastft.errors import ModelError, RecipeError
from fastft.files import sha256_of
from tests.short_runs import last_trainer, recipe_of, train, write_chats, write_pairs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chats(tmp_path_factory.mktemp("data") / "chats.jsonl")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl")


def apart(run: fastft.Run, trainer: Any, tiny: Path) -> float:
    """The largest difference in logits between the trained model and the base on disk with the saved adapter."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    saved = PeftModel.from_pretrained(base, str(run.adapter)).eval()
    ids = torch.tensor([[3 + 7 * n % 400 for n in range(40)]])
    trained = trainer.model.eval()
    with torch.no_grad():
        return float((trained(input_ids=ids).logits - saved(input_ids=ids).logits).abs().max())


IN_FLOAT32 = {"load_in_16bit": True, "dtype": "float32"}
STARTS = [
    {"r": 8, "init_lora_weights": "pissa"},
    {"r": 8, "lora_alpha": 20, "init_lora_weights": "pissa_niter_4", "use_rslora": True},
    {"r": 4, "lora_alpha": 16, "init_lora_weights": "olora"},
    {"r": 4, "init_lora_weights": "pissa", "modules_to_save": ["embed_tokens"], "bias": "lora_only"},
    {"r": 8, "init_lora_weights": "orthogonal"},
    {"r": 8, "init_lora_weights": "gaussian", "use_rslora": True, "lora_alpha": 32},
    {"r": 8, "use_dora": True},
]


@pytest.mark.parametrize("lora", STARTS, ids=lambda lora: str(lora.get("init_lora_weights", "dora")))
def test_the_saved_adapter_on_the_original_base_is_the_trained_model(
    lora: dict[str, Any], chats: Path, tiny: Path, tmp_path: Path
) -> None:
    from fastft.exporters.lora import read_config

    with last_trainer() as trainers:
        run = train(recipe_of(chats, model=IN_FLOAT32, lora=lora, training={"bf16": False}), tmp_path / "run")
    assert apart(run, trainers[0], tiny) < 1e-4
    config = read_config(run.adapter)  # raises for an adapter that belongs to a changed base
    residual = lora.get("init_lora_weights", "").startswith(("pissa", "olora"))
    assert config["r"] == lora["r"] * (2 if residual else 1)
    losses = [point["loss"] for point in run.metrics() if "loss" in point]
    assert losses[-1] < losses[0]


def test_a_pissa_run_resumes_where_it_was_even_if_the_base_is_decomposed_otherwise(
    chats: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine may find the singular vectors with other signs."""
    from peft.tuners.lora.layer import LoraLayer

    lora = {"r": 8, "init_lora_weights": "pissa"}
    recipe = recipe_of(chats, model=IN_FLOAT32, lora=lora, training={"bf16": False, "max_steps": 4, "save_steps": 2})
    whole = train(recipe, tmp_path / "whole")
    run = train(recipe, tmp_path / "run")
    for name in ("manifest.json", "adapter/adapter_model.safetensors"):
        (run.directory / name).unlink()
    (run.adapter / "adapter_config.json").unlink()
    import shutil

    shutil.rmtree(run.adapter)
    shutil.rmtree(run.checkpoints / "checkpoint-4")
    decompose = LoraLayer.pissa_init

    def otherwise(self: Any, name: str, init: str) -> None:
        decompose(self, name, init)
        self.lora_A[name].weight.data.neg_()
        self.lora_B[name].weight.data.neg_()
        self.lora_A[name].weight.data[0] *= 2
        base, scaling = self.get_base_layer().weight, self.scaling[name]
        a, b = self.lora_A[name].weight.data, self.lora_B[name].weight.data
        base.data -= scaling * b[:, :1] @ a[:1] / 2  # W - s·B·A as before

    monkeypatch.setattr(LoraLayer, "pissa_init", otherwise)
    with last_trainer() as trainers:
        resumed = train(recipe, tmp_path / "run", resume=True)
    assert apart(resumed, trainers[0], tiny) < 1e-4
    ends = [[p["loss"] for p in of.metrics() if "loss" in p] for of in (whole, resumed)]
    assert ends[0] == pytest.approx(ends[1], abs=1e-4)


def test_what_cannot_be_made_right_is_refused_with_the_reason(chats: Path) -> None:
    for lora, said in [
        ({"init_lora_weights": "loftq"}, "no low-rank update"),
        ({"init_lora_weights": "eva"}, "watch the data"),
        ({"init_lora_weights": "pisa"}, "Did you mean pissa?"),
        ({"init_lora_weights": False}, "another model"),
        ({"init_lora_weights": "pissa"}, "load_in_16bit: true"),
        ({"target_modules": "q_proj,v_proj"}, "[q_proj, v_proj]"),
        ({"target_modules": "all_linear"}, "Did you mean all-linear?"),
        ({"target_modules": ".*("}, "unterminated subpattern"),
        ({"target_modules": "q_.*"}, "matches none of the layers"),
    ]:
        with pytest.raises(RecipeError) as caught:
            fastft.check(recipe_of(chats, lora=lora))
        assert said in str(caught.value.faults), lora


def test_a_pattern_chooses_the_layers(chats: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    lora = {"r": 4, "target_modules": r".*\.(0|2)\..*(q|v)_proj"}
    run = train(recipe_of(chats, lora=lora, training={"max_steps": 1}), tmp_path / "run")
    with safe_open(run.adapter / "adapter_model.safetensors", framework="np") as file:
        trained = {re.sub(r".*layers\.(.*)\.lora_.*", r"\1", name) for name in file.keys()}  # noqa: SIM118
    assert trained == {f"{layer}.self_attn.{side}_proj" for layer in (0, 2) for side in "qv"}


@pytest.fixture(scope="module")
def first(chats: Path, tmp_path_factory: pytest.TempPathFactory) -> fastft.Run:
    lora = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "down_proj"], "use_rslora": True}
    return train(
        recipe_of(chats, model=IN_FLOAT32, lora=lora, training={"bf16": False}), tmp_path_factory.mktemp("first")
    )


def test_training_goes_on_with_an_adapter(first: fastft.Run, chats: Path, tiny: Path, tmp_path: Path) -> None:
    lora = {"adapter_name_or_path": str(first.directory)}
    recipe = recipe_of(chats, model=IN_FLOAT32, lora=lora, training={"bf16": False})
    assert fastft.check(recipe).recipe.lora.r == 4  # pyright: ignore[reportOptionalMemberAccess]
    with last_trainer() as trainers:
        run = train(recipe, tmp_path / "run")
    assert apart(run, trainers[0], tiny) < 1e-4
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (4, 12, True)
    assert set(config["target_modules"]) == {"q_proj", "down_proj"}
    before, after = (of.manifest()["evaluation"] for of in (run, first))
    assert before["before"]["loss"] == pytest.approx(after["after"]["loss"], abs=1e-5)
    assert run.manifest()["evaluation"]["after"]["loss"] < before["before"]["loss"]
    assert fastft.load_recipe(run.recipe_path).lora.own() == {  # pyright: ignore[reportOptionalMemberAccess]
        "use_gradient_checkpointing": False,
        "random_state": 3407,
        "adapter_name_or_path": str(first.directory),
    }


def test_the_adapter_that_dpo_begins_with_is_its_reference(first: fastft.Run, pairs: Path, tmp_path: Path) -> None:
    """No reward before the first step, and the frozen copy is the loaded adapter, not the base."""
    import torch
    from safetensors.torch import load_file

    lora = {"adapter_name_or_path": str(first.adapter)}
    recipe = recipe_of(pairs, model=IN_FLOAT32, lora=lora, method="dpo", training={"bf16": False})
    with last_trainer() as trainers:
        run = train(recipe, tmp_path / "run")
    before, after = (run.manifest()["evaluation"][when]["metrics"] for when in ("before", "after"))
    assert before["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert after["rewards/margins"] > 0.01
    held = {name: value for name, value in trainers[0].model.named_parameters() if ".ref." in name}
    loaded = load_file(first.adapter / "adapter_model.safetensors")
    assert len(held) == len(loaded)
    for name, value in held.items():
        assert torch.equal(value, loaded[name.replace(".ref.", ".")]), name
    assert not (run.adapter / "ref").exists()


def test_an_adapter_of_something_else_is_refused(first: fastft.Run, chats: Path, tmp_path: Path) -> None:
    import shutil

    lora = {"adapter_name_or_path": str(first.adapter), "r": 8}
    with pytest.raises(RecipeError) as caught:
        fastft.load_recipe(recipe_of(chats, lora=lora))
    assert "r beside adapter_name_or_path" in str(caught.value.faults)
    with pytest.raises(RecipeError) as caught:
        fastft.load_recipe(recipe_of(chats, lora={"adapter_name_or_path": str(first.adapter)}, method="reward"))
    assert "found with method reward" in str(caught.value.faults)
    stray = tmp_path / "stray"
    shutil.copytree(first.adapter, stray)
    config = json.loads((stray / "adapter_config.json").read_text())
    (stray / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "other/model"}))
    with pytest.raises(RecipeError, match="fault") as caught:
        fastft.check(recipe_of(chats, lora={"adapter_name_or_path": str(stray)}))
    assert "an adapter on other/model" in str(caught.value.faults)
    with pytest.raises(RecipeError) as caught:
        fastft.check(recipe_of(chats, lora={"adapter_name_or_path": str(tmp_path)}))
    assert "it lacks adapter_config.json" in str(caught.value.faults)


def test_a_run_whose_base_has_changed_is_not_gone_on_with(first: fastft.Run, chats: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(first.directory, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["model"]["base"]["files"]["model.safetensors"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="fastft/tiny has changed since the training"):
        train(recipe_of(chats, lora={"adapter_name_or_path": str(other)}), tmp_path / "run")


WAYS = {
    "4bit": {"load_in_4bit": True},
    "8bit": {"load_in_8bit": True},
    "16bit": {"load_in_16bit": True},
    "full": {"full_finetuning": True},
    "pissa": {"load_in_16bit": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_loading_trains_exports_and_verifies(way: str, chats: Path, tmp_path: Path) -> None:
    export = {"formats": ["merged_16bit"], "verify": True}
    recipe = recipe_of(chats, model=WAYS[way], export=export)
    if way == "full":
        del recipe["lora"]
    if way == "pissa":
        recipe["lora"]["init_lora_weights"] = "pissa"
    run = train(recipe, tmp_path / "run")
    proof = json.loads((run.exports / "merged_16bit" / "verification.json").read_text())
    assert proof["passed"]
    evaluation = run.manifest()["evaluation"]
    assert evaluation["after"]["loss"] < evaluation["before"]["loss"]
    assert sha256_of(run.exports / "merged_16bit" / "model.safetensors")


def test_eight_bits_on_the_cpu_are_told_to_be_sixteen(chats: Path) -> None:
    warnings = fastft.check(recipe_of(chats, model={"load_in_8bit": True})).warnings
    assert (
        any("8 bits" in warning and "16" in warning for warning in warnings)
        is fastft.check(recipe_of(chats)).device.is_cpu
    )


def test_a_model_folder_that_holds_an_adapter_too_is_refused(chats: Path, tiny: Path, tmp_path: Path) -> None:
    """transformers trains on with both, and exports would be of the one."""
    both = shutil.copytree(tiny, tmp_path / "both")
    (both / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    recipe = recipe_of(chats, model={"model_name": str(both)})
    with pytest.raises(ModelError, match=r"both holds a model and, by adapter_config\.json, a LoRA adapter"):
        fastft.check(recipe)
