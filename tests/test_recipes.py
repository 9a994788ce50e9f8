"""Every recipe that ships loads, says something on each section, and stays the same through a run directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastft.recipe.load import load_recipe

FOLDER = Path(__file__).parent.parent / "recipes"
RECIPES = sorted(FOLDER.rglob("*.yaml"))


def test_there_are_recipes() -> None:
    assert RECIPES
    assert {"qlora_chat.yaml", "quickstart.yaml"} <= {path.name for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_shipped_recipe_loads_and_survives_its_own_yaml(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")

    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    assert recipe.source == path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_shipped_recipe_is_commented(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sum("#" in line for line in lines) >= 10
    assert max(map(len, lines)) <= 120


def test_the_recipe_to_copy_is_what_it_says() -> None:
    recipe = load_recipe(FOLDER / "qlora_chat.yaml")
    assert recipe.model.model_name == "unsloth/Qwen3-4B-Instruct-2507-unsloth-bnb-4bit"
    assert recipe.model.load_in_4bit
    assert recipe.lora is not None
    assert recipe.data.path == "mlabonne/FineTome-100k"
    assert recipe.training["packing"] is True
    assert recipe.training["learning_rate"] == 2e-4
    assert recipe.export.formats == ("gguf",)
    assert recipe.export.quantization_method == ("q4_k_m",)
