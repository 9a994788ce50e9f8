"""Shared fixtures: the packaged tiny model, and the real tokenizers and data that lie beside a checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as fastft.backend does, for tests that import torch themselves

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared with real tokenizers and public data is absent")
    return SHARED


@pytest.fixture(scope="session")
def qwen_tokenizer(shared: Path) -> Path:
    return shared / "tokenizers" / "qwen2.5"


@pytest.fixture(scope="session")
def llama_tokenizer(shared: Path) -> Path:
    return shared / "tokenizers" / "llama-3.2"


@pytest.fixture(scope="session")
def tiny() -> Path:
    return ROOT / "fastft" / "tiny" / "model"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked gpu are skipped, with the reason, where no accelerator is."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and _no_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an accelerator"))


def _no_gpu() -> bool:
    from fastft.device import find_device

    return find_device().is_cpu
