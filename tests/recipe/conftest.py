"""Recipes written to files, and the faults found in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fastft.errors import Fault, RecipeError
from fastft.recipe.load import load_recipe

# Six lines, so that what a test adds begins on line 7.
VALID = """\
model:
  model_name: fastft/tiny
lora:
  r: 8
data:
  path: owner/name
"""

FaultsOf = Callable[..., tuple[Fault, ...]]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write_recipe(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_recipe


@pytest.fixture
def faults_of(write: Callable[[str], Path]) -> FaultsOf:
    """The faults in VALID with `added` below it, under `overrides`. Fails if there are none."""

    def find(added: str = "", overrides: Sequence[str] = (), *, base: str = VALID) -> tuple[Fault, ...]:
        with pytest.raises(RecipeError) as caught:
            load_recipe(write(base + added), overrides)
        assert caught.value.faults
        return caught.value.faults

    return find
