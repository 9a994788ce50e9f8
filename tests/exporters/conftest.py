from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exporters.models import random_model, save_model


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A Llama with an output of its own."""
    return save_model(random_model("Llama", tie_word_embeddings=False), tmp_path_factory.mktemp("llama"), tiny)


@pytest.fixture(scope="session")
def tied_qwen2(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A Qwen2 (biases on q, k, v) whose output is its embedding, in several shards."""
    model = random_model("Qwen2", tie_word_embeddings=True)
    return save_model(model, tmp_path_factory.mktemp("qwen2"), tiny, max_shard_size="100KB")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB. Skips where mounting isn't allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield disk
    subprocess.run(["umount", disk], check=True)
