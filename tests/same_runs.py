"""Whether two runs came to the same end: to the byte, but for clocks and memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastft.checkpoints import whole_checkpoint
from fastft.files import folder_hashes

_TIMED = ("seconds", "per_second", "data_wait", "peak_memory", "runtime", "mfu", "step_time", "preparation_time")


def is_clock(key: str) -> bool:
    return any(word in key for word in _TIMED)


def without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_clocks(item) for key, item in value.items() if not is_clock(key)}
    return [without_clocks(item) for item in value] if isinstance(value, list) else value


def points(run: Path) -> list[dict[str, Any]]:
    """Every line of metrics.jsonl."""
    return [without_clocks(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]


def results(run: Path) -> dict[str, Any]:
    """All that a run came to: hashes of its files, and what the others say without clocks."""
    said = {
        name: without_clocks(json.loads((run / name).read_text()))
        for name in ("evaluation.json", "audit.json", "start.json")
    }
    hashed = {f"{part}/{name}": digest for part in ("adapter", "model") for name, digest in _hashes(run / part).items()}
    for name in ("completions.jsonl", "samples.jsonl", "heldout.jsonl", "recipe.yaml"):
        text = (run / name).read_text() if (run / name).is_file() else ""
        hashed[name] = text.replace(f"output_dir: {run}", "")
    for name, digest in _hashes(run / "exports").items():
        if name.endswith("verification.json"):
            hashed[name] = json.loads((run / "exports" / name).read_text())["passed"]
        elif not name.endswith("export.json"):  # which tells how long it took
            hashed[f"exports/{name}"] = digest
    return {**hashed, **said, "points": points(run)}


def _hashes(folder: Path) -> dict[str, str]:
    return folder_hashes(folder) if folder.is_dir() else {}


def left_behind(run: Path) -> list[str]:
    """What a run that is complete should not hold: things half-made."""
    half_made = (path for path in run.rglob("*") if "partial" in path.name or path.name.endswith(".old"))
    return [str(path.relative_to(run)) for path in half_made]


def same_states(run: Path, other: Path) -> None:
    """Optimiser, schedule, random states and open ends of the last checkpoints, to the bit."""
    import torch

    mine, theirs = (whole_checkpoint(each / "checkpoints") for each in (run, other))
    assert mine is not None
    assert theirs is not None
    assert mine.name == theirs.name
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "fastft_state.pt"):
        plain = name != "rng_state.pth"  # which holds numpy's state
        found, expected = (torch.load(each / name, weights_only=plain) for each in (mine, theirs))
        _equal(found, expected, name)


def _equal(one: Any, other: Any, where: str) -> None:
    import numpy as np
    import torch

    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in (key for key in one if not is_clock(str(key))):
            _equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for at, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            _equal(mine, theirs, f"{where}.{at}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    elif isinstance(one, np.ndarray):
        assert (one == other).all(), where
    else:
        assert one == other, where
