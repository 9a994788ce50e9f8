"""Commands that load what was trained or exported, on a run with a spoiled file: verify, chat, eval, replay."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from pathlib import Path
from random import Random

from tests.fuzz.corpora import make_run, spoil_file
from tests.fuzz.forked import RefusedError, require_clear, run_forked, settle

MEMORY = 8 << 30
ANY_NAME = (RefusedError,)  # looked for in all that a command prints
_FILES = (
    "manifest.json", "heldout.jsonl", "recipe.yaml", "adapter/adapter_config.json", "adapter/adapter_model.safetensors",
    "adapter/tokenizer_config.json", "adapter/chat_template.jinja", "adapter/generation_config.json",
    "exports/merged_16bit/config.json", "exports/merged_16bit/model.safetensors", "exports/merged_16bit/export.json",
    "exports/merged_16bit/generation_config.json", "exports/adapter/adapter_config.json",
    "exports/adapter/adapter_model.safetensors", "bad_batches/step-2.safetensors",
)  # fmt: skip


def prepare(folder: Path) -> dict[str, Path]:
    """A finished run with a kept batch. Each command is run once, for what it imports."""
    from fastft.cli import main

    run = make_run(folder / "run")
    _keep_batch(run / "bad_batches")
    (folder / "data.jsonl").write_text((run / "heldout.jsonl").read_text() * 3)
    os.chdir(folder)
    said, sys.stdin = sys.stdin, io.StringIO("hello\n")
    with contextlib.redirect_stdout(io.StringIO()):
        for command in _commands(run):
            with contextlib.suppress(SystemExit):
                main(list(map(str, command)), prog_name="fastft")
    sys.stdin = said
    shutil.rmtree(run / "eval", ignore_errors=True)
    settle()
    return {"run": run, "data": folder / "data.jsonl"}


def _keep_batch(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir()
    ids = np.array([[5, 6, 7, 8]])
    metadata = {"step": "2", "losses": json.dumps(["nan"])}
    save_file({"0.input_ids": ids, "0.labels": ids}, folder / "step-2.safetensors", metadata=metadata)


def _commands(run: Path) -> list[list[object]]:
    few = ("--max-new-tokens", 2)
    merged, adapter, rows = run / "exports" / "merged_16bit", run / "adapter", run / "heldout.jsonl"
    return [
        ["verify", run], ["verify", adapter], ["chat", run, *few], ["chat", adapter, *few], ["chat", merged, *few],
        ["eval", run, "--no-base"], ["eval", merged, "--data", rows, "--out", run / "eval"],
        ["replay", run, "--step", 2],
    ]  # fmt: skip


def case(state: dict[str, Path], random: Random, folder: Path, names: list[str]) -> None:
    _ = names
    made = folder / "run"
    shutil.copytree(state["run"], made)
    shutil.copy(state["data"], folder)
    spoil_file(made / random.choice(_FILES), random)
    named = [str(made), "merged_16bit", "recipe", "heldout.jsonl:"]
    require_clear(*run_forked(random.choice(_commands(made)), folder, "hello\n"), named)
