"""Exports of a run or an adapter's folder by a section of a recipe, as `fastft export` makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastft.exporters import make_exports
from fastft.recipe.schema import ExportSection
from fastft.verification import trained_at


def make(target: Path, section: ExportSection, **options: Any) -> list[Path]:
    """The folders made, in exports/ inside `target`."""
    trained, log = trained_at(target)
    return make_exports(trained, section, log, **options)
