from __future__ import annotations

from pathlib import Path

import pytest

from fastft.errors import ModelError, RecipeError
from fastft.exporting import export
from fastft.run import Run


def _run(folder: Path, recipe: str = "") -> Run:
    run = Run.create(folder / "run", recipe)
    run.adapter.mkdir()
    run.write_manifest(
        {"model": {"model_name": "fastft/tiny", "revision": None, "base": {"model_name": "fastft/tiny"}}, "files": {}}
    )
    return run


def test_an_unknown_format_or_type_is_told_with_the_nearest(tmp_path: Path) -> None:
    run = _run(tmp_path)
    with pytest.raises(RecipeError, match="Did you mean gguf"):
        export(run, "ggfu")
    with pytest.raises(RecipeError, match="Did you mean q4_k_m"):
        export(run, "gguf", ["q4km"])
    assert not run.exports.exists()


def test_a_recipe_without_exports_says_how_to_ask_for_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nothing says what to export") as caught:
        export(_run(tmp_path, "export: {formats: []}"))
    assert "--format" in caught.value.hint


def test_an_unfinished_run_is_not_exported(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "export: {formats: [gguf]}")
    with pytest.raises(ModelError, match="has not finished training"):
        export(run)


def test_a_type_given_as_a_format_is_explained(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--format gguf --quantization q8_0"):
        export(_run(tmp_path), "q8_0")


def test_an_export_is_not_a_run_and_says_which_it_belongs_to(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "exports" / "gguf-q8_0"
    folder.mkdir(parents=True)
    (folder / "export.json").write_text("{}")
    with pytest.raises(ModelError, match="is an export, not the run") as caught:
        export(folder, "gguf")
    assert caught.value.hint == f"Name that: {tmp_path / 'run'}"
