"""All rows of a file at once, for tests that look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastft.data.rows import Row
from fastft.data.sources import open_sources
from fastft.errors import Fault
from fastft.recipe.schema import DataSection


def read_rows(path: Path | str, **options: Any) -> list[Row]:
    """The rows of a file or a Hub set, read as a recipe's data section says; none may be broken."""
    data = DataSection(path=str(path), **options)
    rows: list[Row] = []
    for source in open_sources(data, data.path, split=data.split):
        for row in source.rows():
            assert not isinstance(row, Fault), row
            rows.append(row)
    return rows
