"""Where memory runs out: half the micro-batch and twice the accumulation, from the last checkpoint on."""

from __future__ import annotations

import gc
import json
from typing import TYPE_CHECKING

import yaml

from fastft.files import write_json

if TYPE_CHECKING:
    from fastft.run import Run

_TRAIN, _ACCUMULATION, _EVALUATION = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size",
)  # fmt: skip


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or what it was raised from, says that memory ran out, of the GPU or of the host."""
    from accelerate.utils.memory import should_reduce_batch_size

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or (isinstance(seen, Exception) and should_reduce_batch_size(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def take_less(run: Run, step: int) -> str | None:
    """Have the run go on with smaller micro-batches; returns what was changed, in words, or None if nothing can be.

    A step learns from the same rows as before. It is recorded in start.json, which a resumed run goes by.
    """
    if not run.start_path.is_file():
        return None
    start = json.loads(run.start_path.read_text(encoding="utf-8"))
    arguments, told = start["arguments"], []
    batch, evaluated = int(arguments[_TRAIN]), int(arguments.get(_EVALUATION) or 8)
    least = 2 if _is_kto(run) else 1
    if (smaller := _divisor_below(batch)) >= least:
        arguments[_TRAIN] = smaller
        arguments[_ACCUMULATION] = int(arguments[_ACCUMULATION]) * batch // smaller
        told.append(f"{_TRAIN} {batch} → {smaller}, {_ACCUMULATION} {arguments[_ACCUMULATION]}")
    if evaluated > 1:
        arguments[_EVALUATION] = evaluated // 2
        told.append(f"{_EVALUATION} {evaluated} → {evaluated // 2}")
    if not told:
        return None
    start.setdefault("reduced", []).append({"step": step, "changes": told})
    write_json(run.start_path, start)
    return "; ".join(told)


def _is_kto(run: Run) -> bool:
    """KTO's KL term needs two answers in a micro-batch."""
    return yaml.safe_load(run.recipe_path.read_text(encoding="utf-8")).get("method") == "kto"


def _divisor_below(batch: int) -> int:
    """The largest divisor of `batch` below it, 0 for 1: micro-batches that make up the same step."""
    return next((size for size in range(batch // 2, 0, -1) if batch % size == 0), 0)


def give_back() -> None:
    """Free what a failed training held, on the GPU, too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
