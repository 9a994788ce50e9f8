from __future__ import annotations

from pathlib import Path

from fastft.recipe.reference import as_markdown, schema_reference


def test_the_documented_keys_are_those_of_the_schema() -> None:
    documented = Path(__file__).resolve().parents[2] / "docs" / "recipe.md"
    assert documented.read_text(encoding="utf-8") == as_markdown(), (
        "run: python -m fastft.recipe.reference > docs/recipe.md"
    )


def test_every_key_of_ours_says_what_it_is_for() -> None:
    ours = [key for key in schema_reference() if key.section != "training"]
    assert len(ours) > 30
    assert all(key.description for key in ours)
