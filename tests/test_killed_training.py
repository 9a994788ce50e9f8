"""kill -9 at random moments of SFT and DPO runs and their exports: resumed, they end as if nothing had happened.

`FASTFT_KILLS=50 uv run pytest tests/test_killed_training.py` kills each method as often as that.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from fastft.files import folder_hashes
from fastft.run import Run
from tests.short_runs import write_chats, write_pairs

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("FASTFT_KILLS", "1"))
SIGNAL = signal.Signals[os.environ.get("FASTFT_SIGNAL", "SIGKILL")]


def _recipe(method: str, folder: Path) -> Path:
    rows = (write_chats if method == "sft" else write_pairs)(folder / "rows.jsonl")
    content = {
        "model": {"model_name": "fastft/tiny", "max_seq_length": 128},
        "lora": {"r": 4},
        "data": {"path": str(rows), "eval_split": 4},
        "method": method,
        "training": {"max_steps": 24, "per_device_train_batch_size": 2, "save_steps": 4, "logging_steps": 1},
        "evaluation": {"samples": 0},
        "export": {"formats": ["merged_16bit", "gguf"], "quantization_method": ["q8_0"], "verify": False},
        "output_dir": str(folder / "run"),
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _command(recipe: Path, output: Path) -> list[str]:
    return [sys.executable, "-m", "fastft", "train", str(recipe), "--output-dir", str(output)]


def _results(run: Path) -> tuple[dict[str, str], list[dict[str, float]]]:
    """Hashes of weights and exports, and the logged points without clocks and memory."""
    hashes = {
        f"{part}/{name}": digest
        for part in ("adapter", "exports")
        for name, digest in folder_hashes(run / part).items()
        if name.endswith((".safetensors", ".gguf"))
    }
    timed = ("seconds", "per_second", "data_wait", "peak_memory", "runtime", "mfu")
    points = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return hashes, [
        {key: value for key, value in point.items() if not any(word in key for word in timed)}
        for point in points
        if "loss" in point
    ]


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_killed_at_any_moment_it_ends_as_if_nothing_had_happened(method: str, tmp_path: Path) -> None:
    recipe = _recipe(method, tmp_path)
    begun = time.monotonic()
    subprocess.run(_command(recipe, tmp_path / "whole" / "run"), capture_output=True, check=True)
    seconds = time.monotonic() - begun
    expected = _results(tmp_path / "whole" / "run")
    assert len(expected[0]) == 3
    choose = random.Random(f"{method}{KILLS}{SIGNAL}")
    for number in range(KILLS):
        run = tmp_path / str(number) / "run"  # the name goes into GGUF files
        moment = choose.uniform(0.2, 1.0) * seconds
        with subprocess.Popen(_command(recipe, run), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            time.sleep(moment)
            process.send_signal(SIGNAL)
            process.communicate()
        begun_before = (run / "recipe.yaml").is_file()
        if not begun_before or not Run(run).complete:
            subprocess.run([*_command(recipe, run), *(["--resume"] if begun_before else [])], check=True)
        assert _results(run) == expected, moment
        assert not list(run.parent.glob("run-*"))
