"""Hostile input of every kind, seeded and for a bounded time: see `harness`."""

from __future__ import annotations

import pytest

from tests.fuzz.harness import survive

TARGETS = (
    "recipes", "data_files", "data_rows", "model_folders", "run_files", "checkpoints", "gguf_files", "commands",
)  # fmt: skip
LOADING = ("loading", "run_commands")  # with torch, whose import alone takes ten seconds


@pytest.mark.parametrize("target", TARGETS)
def test_every_input_is_read_or_refused_by_one_clear_error(target: str) -> None:
    survive(target)


@pytest.mark.slow
@pytest.mark.parametrize("target", LOADING)
def test_every_model_is_loaded_or_refused_by_one_clear_error(target: str) -> None:
    survive(target)
