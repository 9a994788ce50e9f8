"""Every key a recipe takes, for documentation: made from the schema and from the installed SFTConfig."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastft.recipe.advice import sections
from fastft.recipe.describe import expectation
from fastft.recipe.faults import field_at


class Key(NamedTuple):
    """One key. `takes` is its type in words; `default` is None where it is chosen when a recipe is read or run."""

    section: str
    key: str
    takes: str
    default: Any
    description: str


def schema_reference() -> list[Key]:
    """All keys, section by section, in the order of the schema."""
    keys = []
    for section, names in sections().items():
        for name in names:
            field = field_at((section, name))
            assert field is not None, f"{section}.{name} is listed but not in the schema"
            default = None if field.is_required() or field.default_factory else field.default
            keys.append(Key(section, name, expectation(field), default, field.description or ""))
    return keys


def as_markdown() -> str:
    """docs/recipe.md: a table a section."""
    lines = [
        "# Every key of a recipe",
        "",
        "Made by `python -m fastft.recipe.reference > docs/recipe.md` from the schema and from the TRL that is",
        "installed; a test holds it to that. `training` takes TRL's own fields, so TRL's documentation explains them.",
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
