"""Tokens and keys of the environment never reach what a run leaves behind or prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.short_runs import recipe_of, write_chats

pytestmark = pytest.mark.slow

SECRETS = {
    "HF_TOKEN": "hf_PlantedTokenOfTheHub0123456789",
    "HUGGING_FACE_HUB_TOKEN": "hf_PlantedOlderNameOfIt0123456789",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdefplanted",
    "OPENAI_API_KEY": "sk-planted-0123456789",
}


def test_no_secret_is_in_any_output(tmp_path: Path) -> None:
    recipe = recipe_of(write_chats(tmp_path / "chats.jsonl"), training={"max_steps": 2})
    recipe |= {"export": {"formats": ["merged_16bit"], "verify": False}, "output_dir": str(tmp_path / "run")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "fastft", "--traceback", "train", str(tmp_path / "recipe.yaml")]
    environment = {**os.environ, **SECRETS, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(written) > 15
    for name, secret in SECRETS.items():
        assert secret.encode() not in done.stdout + done.stderr, name
        assert [path for path in written if secret.encode() in path.read_bytes()] == [], name
