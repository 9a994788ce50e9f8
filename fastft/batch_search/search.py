"""Which micro-batches are tried, and which one is taken."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from fastft.batch_search.put_back import put_back, tidy
from fastft.batch_search.remembered import Found, key_of, recall, remember
from fastft.batch_search.steps import TIMED_STEPS, Clock, sample, time_batch
from fastft.errors import TrainingError
from fastft.host_memory import free_memory
from fastft.out_of_memory import give_back, ran_out_of_memory
from fastft.trainers import find_method
from fastft.trainers.method import Default, Job

if TYPE_CHECKING:
    from fastft.checking import CheckReport
    from fastft.device import Device
    from fastft.recipe.schema import Recipe
    from fastft.run import Run

_LOG = logging.getLogger("fastft")
SECONDS = 25.0  # after the first step, which compiles what training needs anyhow, no further batch is begun
_WORTH = 1.03  # a gain below this is noise, and the chosen default is kept
_A_STEP = 32  # sequences of a timed step, where a step of the training has more

Timed = Callable[[int], Clock]


def is_asked(recipe: Recipe) -> bool:
    return recipe.training.get("batch") == "auto"


def with_remembered(
    recipe: Recipe, defaults: Sequence[Default], arguments: Mapping[str, Any], device: Device
) -> tuple[Default, ...]:
    """The defaults with what a former search found on this device, or with the note that one will be made."""
    if not is_asked(recipe):
        return tuple(defaults)
    found = recall(key_of(recipe, arguments, device))
    if found is None:
        note = f"batch: auto begins here and searches for about {SECONDS:.0f} s once the model is loaded"
        return tuple(
            replace(default, reason=note) if default.key == "per_device_train_batch_size" else default
            for default in defaults
        )
    a_step = sequences_a_step(arguments)
    values = {
        "per_device_train_batch_size": (found.batch, found.reason()),
        "gradient_accumulation_steps": (a_step // found.batch, f"{a_step} sequences a step"),
    }
    return tuple(
        Default(default.key, *values[default.key]) if default.key in values else default for default in defaults
    )


def search_batch(checked: CheckReport, run: Run, model: Any, tokenizer: Any, console: Console) -> CheckReport:
    """`checked` with the fastest micro-batch, found by real steps if the recipe asks for it and nobody did before.

    A run that has begun keeps its arguments, and nothing is searched. The model is afterwards what it was.
    """
    from fastft.checking import check
    from fastft.progress import working

    recipe, arguments = checked.recipe, checked.arguments
    if not is_asked(recipe) or run.start_path.is_file():
        return checked
    key = key_of(recipe, arguments, checked.device)
    if recall(key) is not None:
        return checked
    begun = time.perf_counter()
    with working(console, f"trying micro-batches, for about {SECONDS:.0f} s"), put_back(model):
        found = _search(checked, model, tokenizer)
    if found is None:
        console.print(Text("! batch: auto found nothing that runs; the chosen default is tried", style="yellow"))
        return checked
    remember(key, found)
    seconds = time.perf_counter() - begun
    told = f"{found.batch} a micro-batch · {found.reason()} · {seconds:.0f} s of search"
    console.print(Text.assemble(("batch    ", "bold cyan"), told))
    return check(recipe)


def _search(checked: CheckReport, model: Any, tokenizer: Any) -> Found | None:
    arguments, method = checked.arguments, checked.recipe.method
    whole = sequences_a_step(arguments)
    start = int(arguments["per_device_train_batch_size"])
    rows = _rows(checked, min(whole, max(_A_STEP, start)))
    data = sample(checked.data, method, rows, longest=max(1, rows // (1 + TIMED_STEPS)))
    job = Job(model, tokenizer, data, arguments, Path(), rewards=checked.recipe.rewards)

    def timed(batch: int) -> Clock:
        a_step = whole if whole <= _A_STEP else max(batch, _A_STEP // batch * batch)
        return time_batch(method, job, batch, a_step)

    return climb(timed, candidates(whole, most_that_fit(checked)), start)


def _rows(checked: CheckReport, a_step: int) -> int:
    """Rows that are enough for all timed steps of one batch; where they are packed, several fill a sequence."""
    plan, width = checked.plan, find_method(checked.recipe.method).sequences
    rows = len(checked.data.train) // width
    each = math.ceil(rows / max(1, plan.sequences))
    return min(rows, each * a_step * (1 + TIMED_STEPS))


def sequences_a_step(arguments: Mapping[str, Any]) -> int:
    return int(arguments["per_device_train_batch_size"]) * int(arguments["gradient_accumulation_steps"])


def candidates(whole: int, most: int) -> tuple[int, ...]:
    """The micro-batches that make a step of `whole` sequences without rest, up to `most`."""
    return tuple(batch for batch in range(1, whole + 1) if whole % batch == 0 and batch <= most)


def most_that_fit(checked: CheckReport) -> int:
    """Sequences a micro-batch can hold by the plan, and by the memory that is free now. Never less than was chosen.

    Where the plan can't tell, nothing larger than the chosen default is tried.
    """
    plan, chosen = checked.plan, int(checked.arguments["per_device_train_batch_size"])
    if plan.largest_batch is None or plan.parts is None:
        return chosen
    parts = plan.parts
    each = (parts.activations + parts.cross_entropy) / chosen
    free = free_bytes() - parts.lora - parts.optimizer  # the weights are loaded, gradients and moments come
    return max(chosen, min(plan.largest_batch, int(free / max(1.0, each))))


def free_bytes() -> int:
    """Free memory of the device that trains, with what torch keeps of it for later."""
    import torch

    if not torch.cuda.is_available():
        return free_memory()
    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return torch.cuda.mem_get_info()[0] + kept


def climb(timed: Timed, tried: Sequence[int], start: int, *, seconds: float = SECONDS) -> Found | None:
    """Go up from `start` while it gets faster, else down. None where not one of them runs.

    A gain must be worth it: below 3 % the smaller change, towards `start`, is kept.
    """
    rates: dict[int, float | None] = {}
    limit: float | None = None
    best: int | None = None
    for direction in (sorted(b for b in tried if b >= start), sorted((b for b in tried if b < start), reverse=True)):
        if direction and best is not None and best != start:
            break  # larger is better, so smaller is worse
        for batch in direction:
            if limit is not None and time.perf_counter() > limit:
                _LOG.info("batch: auto ends after %.0f s, before %d", seconds, batch)
                break
            rates[batch], warm = _rate(timed, batch)
            limit = limit if limit is not None or warm is None else warm + seconds
            rate, former = rates[batch], rates.get(best or 0)
            if rate is None and batch > start:
                break
            if rate is not None and (former is None or rate > _WORTH * former):
                best = batch
            elif former is not None:
                break
    return Found(best, rates) if best is not None else None


def _rate(timed: Timed, batch: int) -> tuple[float | None, float | None]:
    """(supervised tokens a second or None if it doesn't run, when its first step had ended)."""
    try:
        clock = timed(batch)
    except TrainingError as error:  # TRL refuses it: KTO, say, wants at least two
        _LOG.info("batch: auto: %d is refused: %s", batch, error)
        return None, None
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        give_back(error)
        _LOG.info("batch: auto: %d is out of memory", batch)
        clock = None
    tidy()
    return (clock.rate, clock.warm) if clock is not None else (None, None)
