"""What a name stands for, and what is said of a name that stands for nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastft.errors import ModelError
from fastft.targets import find_target


def test_the_packaged_model_and_a_folder_are_models(tiny: Path) -> None:
    assert find_target("fastft/tiny").folder == tiny
    found = find_target(tiny)
    assert (found.folder, found.adapter, found.gguf, found.run) == (tiny, None, None, None)
    assert found.tokenizer_folder == tiny


def test_an_export_knows_its_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder = run / "exports" / "gguf-f16"
    folder.mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    (folder / "model-f16.gguf").write_bytes(b"GGUF")
    for target in (folder, folder / "model-f16.gguf"):
        found = find_target(target)
        assert found.gguf == folder / "model-f16.gguf"
        assert found.run is not None
        assert found.run.directory == run


def test_a_lora_for_llama_cpp_is_no_model(tmp_path: Path) -> None:
    folder = tmp_path / "gguf_lora"
    folder.mkdir()
    (folder / "adapter-f32.gguf").write_bytes(b"GGUF")
    (folder / "export.json").write_text(json.dumps({"format": "gguf_lora"}))
    for target in (folder, folder / "adapter-f32.gguf"):
        with pytest.raises(ModelError, match="no model without its base") as caught:
            find_target(target)
        assert "name the run" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "words"), [("runs/none/here", "There is nothing at"), ("none.gguf", "There is nothing at")]
)
def test_nothing_is_told_as_nothing(name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        find_target(name)


def test_a_missing_folder_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(ModelError, match="There is nothing at runs/nope"):
        find_target("runs/nope")


def test_a_recipe_is_told_as_one_and_its_run_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe, run = tmp_path / "base.yaml", tmp_path / "runs" / "base"
    recipe.write_text("model: {model_name: fastft/tiny}\ndata: {path: rows.jsonl}\n")
    with pytest.raises(ModelError, match=r"base.yaml is a recipe, which is no model: .* a run directory") as caught:
        find_target(recipe)
    assert caught.value.hint == f"Train it first: fastft train {recipe}"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("method: sft\n")
    with pytest.raises(ModelError, match="is a recipe") as caught:
        find_target("base.yaml")
    assert caught.value.hint == "Name the run: runs/base"
    recipe.write_text(f"output_dir: {run}-other\n")
    with pytest.raises(ModelError, match="is a recipe") as caught:
        find_target(recipe)
    assert caught.value.hint.startswith("Train it first")
    (tmp_path / "base.yml").write_text("method: [\n")
    with pytest.raises(ModelError, match=r"base.yml is a recipe"):
        find_target(tmp_path / "base.yml")
