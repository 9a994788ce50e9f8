"""Disk space of a run: checkpoints, the trained weights, and each export."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastft.recipe.schema import Recipe

_BESIDE_WEIGHTS = 20_000_000  # tokenizer, configuration and state of a checkpoint


def plan_disk(
    recipe: Recipe, arguments: Mapping[str, Any], *, parameters: int, trainable: int, states: float, steps: int
) -> dict[str, int]:
    """Bytes by what they are for. `states` are the optimiser's bytes, `trainable` parameters are in 32 bits."""
    weights = 4 * trainable
    kept = _checkpoints(arguments, steps)
    disk = {}
    if kept:
        # One more than is kept: the oldest goes once the newest is whole.
        disk["checkpoints"] = int((kept + 1) * (weights + states + _BESIDE_WEIGHTS))
    disk["adapter" if recipe.lora is not None else "model"] = weights + _BESIDE_WEIGHTS
    return disk | _exports(recipe, parameters, weights)


def _checkpoints(arguments: Mapping[str, Any], steps: int) -> int:
    """Checkpoints that lie there in the end."""
    strategy = str(arguments.get("save_strategy", "steps"))
    if strategy == "no":
        return 0
    every = float(arguments.get("save_steps") or 500)
    made = math.ceil(steps / max(1.0, every if every >= 1 else every * steps))
    if strategy == "epoch":
        made = math.ceil(float(arguments.get("num_train_epochs") or 1))
    limit = arguments.get("save_total_limit")
    return min(made, int(limit)) if limit else made


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
