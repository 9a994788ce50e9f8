"""What only the model's own files can tell of a recipe, told before training."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastft.errors import ModelError, RecipeError
from fastft.model_files import resolve_model
from fastft.model_fit import fit_to_model, module_names
from fastft.recipe.load import load_recipe

TINY = resolve_model("fastft/tiny", weights=True)  # 1,024 positions, 4 layers


def _recipe(model: dict[str, Any] | None = None, **sections: Any) -> Any:
    values = {"model": {"model_name": "fastft/tiny", **(model or {})}, "lora": {"r": 8}, "data": {"path": "a/b"}}
    return load_recipe({**values, **sections})


@pytest.mark.parametrize(
    ("model", "training", "length"),
    [({}, {}, 1024), ({"max_seq_length": 64}, {}, 64), ({}, {"max_length": 99}, 99)],
)
def test_the_length_left_out_is_what_the_model_can_do(model: dict, training: dict, length: int) -> None:
    assert fit_to_model(_recipe(model, training=training), TINY).model.max_seq_length == length


def test_the_usual_length_is_not_raised_to_a_long_context(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 131072}}))
    assert fit_to_model(_recipe(), tmp_path).model.max_seq_length == 2048


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        ({"model": {"max_seq_length": 1025}}, "recipe model.max_seq_length: found 1025; expected at most 1024"),
        ({"training": {"max_length": 2048}}, "recipe training.max_length: found 2048; expected at most 1024"),
        ({"lora": {"layers_to_transform": [3, 4]}}, "recipe lora.layers_to_transform: found 4; expected indices below"),
        ({"lora": {"target_modules": ["q_prj"]}}, 'found "q_prj", which the model has no layer of; expected .*q_proj'),
        ({"lora": {"target_modules": ["q_prj"]}}, r"Did you mean q_proj\?"),
        ({"lora": {"target_modules": ["input_layernorm"]}}, 'found "input_layernorm"'),
        ({"lora": {"modules_to_save": ["head"]}}, 'recipe lora.modules_to_save: found "head"'),
    ],
)
def test_what_the_model_has_not_is_told(sections: dict, fault: str) -> None:
    with pytest.raises(RecipeError, match=fault):
        fit_to_model(_recipe(**sections), TINY)


def test_faults_are_placed_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model: {model_name: fastft/tiny}\nlora:\n  target_modules: [nothing]\ndata: {path: a/b}\n")
    with pytest.raises(RecipeError, match=r"r\.yaml:3 lora\.target_modules"):
        fit_to_model(load_recipe(path), TINY)


@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], ["self_attn.q_proj"], ["lm_head", "embed_tokens"]])
def test_layers_are_named_as_peft_finds_them(targets: list[str]) -> None:
    fit_to_model(_recipe(lora={"target_modules": targets, "modules_to_save": ["embed_tokens"]}), TINY)


def test_names_come_from_the_index_of_a_model_that_is_not_here_yet(tmp_path: Path) -> None:
    weights = dict.fromkeys(
        ("model.layers.0.self_attn.q_proj.weight.absmax", "model.layers.0.mlp.experts.gate_up_proj"), "a.safetensors"
    )
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    assert module_names(tmp_path) == ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.experts.gate_up_proj"]


def test_where_no_names_are_known_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    assert fit_to_model(_recipe(lora={"target_modules": ["c_attn"]}), tmp_path).model.max_seq_length == 2048


def test_a_broken_config_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json can't be read"):
        fit_to_model(_recipe(), tmp_path)


def test_a_model_type_that_transformers_lacks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "foobar"}))
    with pytest.raises(ModelError, match=r"names the model type 'foobar', which transformers [\d.]+ does not know"):
        fit_to_model(_recipe(), tmp_path)
    elsewhere = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("fastft.model_fit.find_spec", lambda _: elsewhere)
    fit_to_model(_recipe(), tmp_path)  # a transformers that keeps its table elsewhere
