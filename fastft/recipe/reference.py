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
