"""A contradiction in a recipe, and what a rule that looks for one is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastft.recipe.document import Document, KeyPath
from fastft.recipe.schema import Recipe


@dataclass(frozen=True)
class Clash:
    """`keys` do not go together; the first is the one named, unless an override wrote another of them."""

    keys: tuple[str, ...]
    found: str
    expected: str
    hint: str = ""
    entry: int | None = None  # of the list that the first key holds

    @property
    def paths(self) -> list[KeyPath]:
        paths: list[KeyPath] = [tuple(key.split(".")) for key in self.keys]
        return paths if self.entry is None else [(*paths[0], self.entry), *paths[1:]]


@dataclass(frozen=True)
class Given:
    """The recipe, and what of it was written rather than left to its default."""

    recipe: Recipe
    document: Document

    def written(self, key: str) -> bool:
        return self.document.has(tuple(key.split(".")))

    def training(self, key: str, default: Any = None) -> Any:
        return self.recipe.training.get(key, default)
