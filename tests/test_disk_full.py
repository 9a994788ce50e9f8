"""A disk that fills at any point of a run: nothing half-written, the last checkpoint kept, and the run can go on.

`FASTFT_FILLS=30 uv run pytest tests/test_disk_full.py` fills it at as many points. Each is a run on a tmpfs of its own,
in a mount namespace; where such can't be made, the tests are skipped.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.short_runs import write_chats

pytestmark = pytest.mark.slow
FILLS = int(os.environ.get("FASTFT_FILLS", "3"))
_NAMESPACE = ["unshare", "-Urm"]
Disks = Callable[..., dict[str, Any]]
# Where the disk is filled once the pattern is there; the free bytes left, so that some writes still succeed.
STAGES = (
    "run/checkpoints/.partial/checkpoint-4",
    "run/exports/.partial-*/merged_16bit",
    "run/start.json",
    "run/exports/.partial-*/converted.gguf",
    "run/checkpoints/checkpoint-8",
    "run/.adapter.partial",
    "run/exports/.partial-*/gguf-q8_0",
    "run/samples.jsonl",
    "run/exports/gguf-q8_0",
    "run/recipe.yaml",
    "run/metrics.jsonl",
    "run/exports/merged_16bit",
    "run/manifest.json",
)
LEFT = (0, 4096, 300_000, 1 << 20)


def _can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = ["sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
    return subprocess.run([*_NAMESPACE, *tried], capture_output=True, check=False).returncode == 0


def points(count: int) -> list[dict[str, Any]]:
    """Where the disk is full: stages, small disks and moments, in turns, the same ones each time."""
    choose, found = random.Random(7), []
    for number in range(count):
        match number % 3:
            case 0:
                found.append({"when": STAGES[number // 3 % len(STAGES)], "free": LEFT[number // 3 % len(LEFT)]})
            case 1:
                found.append({"when": STAGES[(number // 3 + 1) % len(STAGES)], "free": choose.choice(LEFT)})
            case _:
                found.append({"free": int(choose.uniform(0, 64e6))})
    return found


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not _can_mount():
        pytest.skip("no mount namespace can be made here: unshare -Urm")
    folder = tmp_path_factory.mktemp("disk")
    content = {
        "model": {"model_name": "fastft/tiny", "max_seq_length": 128},
        "lora": {"r": 4},
        "data": {"path": str(write_chats(folder / "rows.jsonl")), "eval_split": 6},
        "training": {
            "max_steps": 12,
            "per_device_train_batch_size": 2,
            "save_steps": 4,
            "logging_steps": 1,
            "learning_rate": 1e-2,
            "eval_strategy": "steps",
            "eval_steps": 4,
        },
        "evaluation": {"samples": 0, "prompts": ["Say 3."], "sample_steps": 4, "max_new_tokens": 4},
        "export": {"formats": ["merged_16bit", "gguf"], "quantization_method": ["q8_0"]},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def disks(recipe: Path) -> Iterator[Disks]:
    """A process that makes small disks and trains on them."""
    command = [*_NAMESPACE, sys.executable, "-m", "tests.disk_filling"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=Path(__file__).resolve().parents[1], **pipes) as process:

        def fill(folder: Path, **spec: Any) -> dict[str, Any]:
            folder.mkdir()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({**spec, "recipe": str(recipe), "folder": str(folder)}) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield fill
        process.communicate()


@pytest.fixture(scope="module")
def undisturbed(disks: Disks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = disks(tmp_path_factory.mktemp("undisturbed") / "disk", when="never")
    assert found["code"] == 0, found["said"]
    assert len(found["results"]["hashes"]) == 3
    return found["results"]


@pytest.mark.parametrize("number", range(FILLS))
def test_a_disk_that_fills(number: int, disks: Disks, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    point = points(FILLS)[number]
    found = disks(tmp_path / "disk", **point)
    check(found, undisturbed, point)


def check(found: dict[str, Any], undisturbed: dict[str, Any], point: Any) -> None:
    """Nothing half-written, one message, and the run went on to the same end."""
    said = found["said"]
    assert not found["faults"], (point, said)
    assert "Traceback" not in said
    assert found["code"] in (0, 1), said
    if found["code"]:
        assert re.search(r"[\d.,]+ [MG]B", said), said
        assert said.count("error:") == 1, said
    assert found["again"]["code"] == 0, found["again"]["said"]
    assert found["again"]["runs"] == 1
    assert found["results"] == undisturbed, point


def test_a_disk_that_holds_no_more_files(disks: Disks, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    found = disks(tmp_path / "disk", inodes=50)
    assert found["code"] == 1, found["said"]
    assert "holds no more files" in found["said"]
    check(found, undisturbed, "inodes")
