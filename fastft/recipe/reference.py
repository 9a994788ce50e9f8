"""Every key a recipe takes, for documentation: made from the schema and from the configs of the installed TRL."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastft.recipe.advice import sections
from fastft.recipe.describe import expectation
from fastft.recipe.faults import field_at
from fastft.recipe.schema import Recipe
from fastft.trainers import METHODS


class Key(NamedTuple):
    """One key. `takes` is its type in words; `default` is None where it is chosen when a recipe is read or run."""

    section: str
    key: str
    takes: str
    default: Any
    description: str


def schema_reference() -> list[Key]:
    """All keys, section by section, in the order of the schema; then what further methods' training takes beside."""
    keys = [_key(section, name, "sft") for section, names in sections().items() for name in names]
    keys += [_top(name) for name in Recipe.model_fields if name not in sections()]
    common = set(sections()["training"])
    for method in METHODS:
        own = [name for name in sections(method)["training"] if name not in common]
        keys += [_key("training", name, method) for name in own]
    return keys


def _key(section: str, name: str, method: str) -> Key:
    field = field_at((section, name), method)
    assert field is not None, f"{section}.{name} is listed but not in the schema"
    default = None if field.is_required() or field.default_factory else field.default
    title = section if method == "sft" else f"{section}, method {method}"
    return Key(title, name, expectation(field), default, field.description or "")


def _top(name: str) -> Key:
    field = Recipe.model_fields[name]
    default = None if field.default_factory else field.default
    return Key("top level", name, expectation(field), default, field.description or "")


def as_markdown() -> str:
    """docs/recipe.md: a table a section."""
    lines = [
        "# Every key of a recipe",
        "",
        "Made by `python -m fastft.recipe.reference > docs/recipe.md` from the schema and from the TRL that is",
        "installed; a test holds it to that. `training` takes the fields of the method's config in TRL, so TRL's",
        "documentation explains them; those of methods other than sft stand at the end, where sft has them not.",
    ]
    section = ""
    for key in schema_reference():
        if key.section != section:
            section = key.section
            lines += ["", f"## {section}", "", "| key | takes | default | |", "|---|---|---|---|"]
        default = "" if key.default is None else f"`{key.default!r}`".replace("|", "\\|")
        takes, description = (text.replace("|", "\\|").replace("\n", " ") for text in (key.takes, key.description))
        lines.append(f"| `{key.key}` | {takes} | {default} | {description} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_markdown(), end="")
