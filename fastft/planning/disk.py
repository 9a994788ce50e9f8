"""Disk space of a run: checkpoints, the trained weights, and each export; and whether there is as much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.disk_space import LEFT_FREE, require_parts

if TYPE_CHECKING:
    from fastft.recipe.schema import Recipe
    from fastft.run import Run

NEXT = "next checkpoint"
_STATE = 500_000  # bytes of a checkpoint's configuration, scheduler, random states and log
_SURE = 0.9  # share of the estimate below which a run can't come to its end


def plan_disk(
    recipe: Recipe,
    arguments: Mapping[str, Any],
    *,
    parameters: int,
    trainable: int,
    states: float,
    steps: int,
    epochs: float,
) -> dict[str, int]:
    """Bytes by what they are for. `states` are the optimiser's bytes, `trainable` parameters are in 32 bits.

    The next checkpoint is one more than is kept: the oldest goes once the newest is whole.
    """
    tokenizer = _tokenizer_bytes(recipe)
    weights, kept = 4 * trainable, _checkpoints(arguments, steps, epochs)
    disk = {}
    if kept:
        each = int(weights + states + tokenizer + _STATE)
        disk |= {"checkpoints": kept * each, NEXT: each}
    disk["adapter" if recipe.lora is not None else "model"] = weights + tokenizer
    return disk | _exports(recipe, parameters, weights)


def require_disk(disk: Mapping[str, int], run: Run) -> None:
    """Raises TrainingError if what `disk` plans surely has no room, by part, before anything of it is written.

    What `run` has already, where it is gone on with, is there. The next checkpoint is written while there are no
    exports yet, so the smaller of the two isn't added.
    """
    left = {name: size - _there(name, run) for name, size in disk.items()}
    left = {name: size for name, size in left.items() if size > 0}
    after = sum(size for name, size in left.items() if name not in ("checkpoints", NEXT))
    if NEXT in left:
        left[NEXT] = max(0, left[NEXT] - after)
    parts = {name: (_folder(name, run), size) for name, size in left.items() if size}
    require_parts({**parts, "left free for logs": (run.directory, LEFT_FREE)}, sure=_SURE)


def _folder(part: str, run: Run) -> Path:
    if part in ("checkpoints", NEXT):
        return run.checkpoints
    return run.directory if part in ("adapter", "model") else run.exports


def _there(part: str, run: Run) -> int:
    """Bytes of what is planned that are there: a trained run writes no more checkpoints and weights."""
    if part in ("checkpoints", NEXT, "adapter", "model") and run.finished:
        return 1 << 62
    if part == "checkpoints":
        return _bytes_of(run.checkpoints)
    folder = run.exports / part.removeprefix("export ")
    return _bytes_of(folder) if part.startswith("export ") else 0


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _tokenizer_bytes(recipe: Recipe) -> int:
    """Of the files that go along with every set of weights: large vocabularies take tens of megabytes."""
    from fastft.model_files import resolve_model

    folder = resolve_model(recipe.model.model_name, recipe.model.revision, weights=False)
    return sum(path.stat().st_size for path in folder.glob("*token*") if path.is_file())


def _checkpoints(arguments: Mapping[str, Any], steps: int, epochs: float) -> int:
    """Checkpoints that lie there in the end; the best one may stay beside the last ones."""
    strategy = str(arguments.get("save_strategy", "steps"))
    if strategy == "no":
        return 0
    every = float(arguments.get("save_steps") or 500)
    made = math.ceil(steps / max(1.0, every if every >= 1 else every * steps))
    if strategy == "epoch":
        made = math.ceil(epochs)
    limit = arguments.get("save_total_limit")
    best = int(bool(arguments.get("load_best_model_at_end")))
    return min(made, int(limit) + best) if limit else made


def _exports(recipe: Recipe, parameters: int, adapter: int) -> dict[str, int]:
    """Each export that a recipe asks for, and what they are made from on the way."""
    from fastft.exporters import export_bytes
    from fastft.exporters.tensor_types import SCHEMES

    export = recipe.export
    sizes = {"merged_16bit": 2 * parameters, "merged_4bit": int(0.75 * parameters), "adapter": adapter,
             "gguf_lora": 2 * adapter}  # fmt: skip
    disk = {f"export {name}": sizes[name] for name in export.formats if name in sizes}
    disk |= {f"export gguf-{kind}": int(parameters * SCHEMES[kind].bits / 8) for kind in export.gguf_types}
    between = export_bytes(export, parameters, adapter) - sum(disk.values())
    return disk | ({"while exporting": between} if between > 0 else {})
