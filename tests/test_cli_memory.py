"""What the command does where memory that was used with more can't be used with less."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from fastft.child import python_running
from tests.short_runs import recipe_of, write_chats
from tests.test_out_of_memory import CALLBACK


@pytest.mark.slow
def test_where_nothing_is_left_after_halving_it_is_tried_once_more_in_an_empty_memory(tmp_path: Path) -> None:
    """There the run begins with one row at a time, and there is nothing left to halve."""
    (tmp_path / "greedy.py").write_text(CALLBACK.format(step=1, most=0))
    training = {"per_device_train_batch_size": 2, "save_steps": 1}
    recipe = recipe_of(
        write_chats(tmp_path / "chats.jsonl"), training=training, callbacks=[f"{tmp_path / 'greedy.py'}:Greedy"]
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, "output_dir": str(tmp_path / "run")}))
    said = subprocess.run(
        [*python_running("fastft"), "train", str(path)], check=False, capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "250"},
    )  # fmt: skip
    assert said.returncode == 1, said.stdout + said.stderr
    assert "going on from step 0 with per_device_train_batch_size 2 → 1" in said.stdout
    assert said.stderr.count("! memory ran out in step 2, and there is nothing left to make smaller; once more") == 1
    assert said.stderr.count("error: memory ran out in step 2, and there is nothing left to make smaller") == 1
    assert "Traceback" not in said.stdout + said.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [2_000_000, 4_500_000])
def test_too_little_address_space_to_import_anything_is_one_message(kilobytes: int, tmp_path: Path) -> None:
    """Libraries would end the process there, or say that it is a fault of theirs."""
    import resource

    path = tmp_path / "recipe.yaml"
    recipe = recipe_of(write_chats(tmp_path / "chats.jsonl"))
    path.write_text(yaml.safe_dump({**recipe, "output_dir": str(tmp_path / "run")}))
    limit = kilobytes << 10
    done = subprocess.run(
        [*python_running("fastft"), "train", str(path)], check=False, capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "250"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 1
    told = f"error: this process may use {limit / 1e9:.1f} GB of address space, and importing torch and Unsloth takes"
    assert done.stderr.startswith(told)
    assert done.stderr.count("error:") == 1
