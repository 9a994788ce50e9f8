"""What bench/cpu/sft.py and bench/gpu/sft.py have in common: preparing once, an arm's process, parity, curves."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.arms import Arm, Work
from bench.driver import Record, emit, run_child
from bench.materials import Lengths, Size, make_model, write_rows

_PARITY = 5e-3  # in nats, the mean over the fixed documents
FIXED_ROWS = "fixed"


def prepare(
    work: Work, size: Size, sets: Mapping[str, tuple[Lengths, int]], facts: Mapping[str, Any], tokenizer: Path | None,
    *, fixed: int = 64, four_bit: bool = False,
) -> None:  # fmt: skip
    """Make the model and the rows, and have fastft render them once: what every arm is fed. Ends with an `emit`.

    `fixed` documents more are those on which all arms must agree before they train.
    """
    from fastft.checking import check

    started = time.monotonic()
    make_model(work.model, size, tokenizer, four_bit=four_bit)
    work.facts.write_text(json.dumps(dict(facts)))
    apart = (next(iter(sets.values()))[0], fixed)
    for seed, (name, (lengths, count)) in enumerate({FIXED_ROWS: apart, **sets}.items()):
        write_rows(work.rows(name), work.model, lengths, count, seed)
        data = check(work.recipe(name)).data
        data.train.dataset().save_to_disk(str(work.folder / name))
        found = data.train.lengths()
        emit(
            set=name, rows=len(found), tokens=sum(found), supervised=data.audit.train.supervised,
            median_length=statistics.median(found), longest=max(found),
            mean_square=sum(n * n for n in found) / sum(found),
        )  # fmt: skip
    emit(set="prepared", seconds=round(time.monotonic() - started, 1), parameters=_parameters(work))


def _parameters(work: Work) -> int:
    from fastft.planning.shape import read_shape

    shape = read_shape(work.model)
    assert shape is not None
    return shape.parameters


def prepare_apart(script: Path, options: Sequence[str], folder: Path) -> list[Record]:
    """`prepare` in a process of its own, which gives its memory back. Its data cache is for this benchmark alone."""
    os.environ["FASTFT_CACHE"] = str(folder / "cache")
    found = run_child([sys.executable, str(script), "--prepare", *options], folder / "prepare.log")
    if failed := next((record["failed"] for record in found if "failed" in record), None):
        raise SystemExit(f"The model and the rows could not be made: {failed}")
    return found


def run_arm(make: Callable[[Work], Arm], work: Work, sets: Mapping[str, float], *, warm_up: int, after: bool) -> None:
    """An arm's process: for each set the loss of the fixed documents, then so many seconds of training. Emits both.

    With `after` the fixed documents are scored again after training: for arms that train on the whole of the rows.
    """
    from bench.stopwatch import document_losses, measure, same_lora_start

    arm = make(work)
    for name, seconds in sets.items():
        trainer = arm.trainer(name)
        fixed = list(work.examples(FIXED_ROWS))
        same_lora_start(trainer.model)
        before = document_losses(trainer.model, fixed)
        found = measure(trainer, seconds=seconds, warm_up=warm_up)
        if after:
            found["loss_after"] = statistics.fmean(document_losses(trainer.model, fixed))
        emit(set=name, loss_before=statistics.fmean(before), losses_before=before, **found, **arm.told)
        del trainer


def parity(records: Sequence[Record], baseline: str) -> list[str]:
    """How far each arm's losses before training are from the baseline's, a line an arm and set."""
    scored = [r for r in records if "losses_before" in r]
    lines = []
    for name in dict.fromkeys(r["set"] for r in scored):
        first = {r["arm"]: r["losses_before"] for r in reversed(scored) if r["set"] == name}
        reference = first.pop(baseline, None)
        if reference is None:
            continue
        for arm, losses in first.items():
            apart = abs(statistics.fmean(losses) - statistics.fmean(reference))
            largest = max(abs(a - b) for a, b in zip(losses, reference, strict=True))
            verdict = "equal" if apart <= _PARITY else f"NOT EQUAL (at most {_PARITY} is), ratios mean nothing"
            lines.append(
                f"{name}: loss before training, {arm} and {baseline} {apart:.1e} apart over {len(losses)} documents, "
                f"one by one at most {largest:.1e}: {verdict}"
            )
    return lines


def curves(records: Sequence[Record], baseline: str, parts: int = 4) -> list[str]:
    """The median of the logged losses in equal spans of documents, an arm a line, each against the baseline's."""
    lines = []
    for name in dict.fromkeys(r["set"] for r in records if "curve" in r):
        logged: dict[str, list[list[float]]] = {}
        for record in records:
            if record.get("set") == name and "curve" in record:
                logged.setdefault(record["arm"], []).extend(record["curve"])
        if baseline not in logged:
            continue
        reach = min(max(documents for documents, _ in points) for points in logged.values())
        told = {arm: _medians(points, reach, parts) for arm, points in logged.items()}
        lines.append(f"{name}: median loss in {parts} spans of the first {reach:,.0f} documents")
        for arm, medians in sorted(told.items()):
            differences = [a - b for a, b in zip(medians, told[baseline], strict=True)]
            lines.append(
                f"  {arm}: {'  '.join(f'{m:.3f}' for m in medians)}"
                + ("" if arm == baseline else f"   against {baseline}: {'  '.join(f'{d:+.3f}' for d in differences)}")
            )
    return lines


def _medians(points: Sequence[Sequence[float]], reach: float, parts: int) -> list[float]:
    spans = [(reach * part / parts, reach * (part + 1) / parts) for part in range(parts)]
    losses = [[loss for documents, loss in points if low < documents <= high] for low, high in spans]
    return [statistics.median(found) if found else float("nan") for found in losses]


def chosen_by_fastft(records: Sequence[Record], arm: str) -> list[str]:
    """What fastft chose for each set, in words."""
    lines = {}
    for record in records:
        if record["arm"] == arm and "chosen" in record:
            chosen = ", ".join(f"{key} {value}" for key, value in record["chosen"].items())
            lines[record["set"]] = f"{record['set']}: fastft chose {chosen}"
    return list(lines.values())


def without_lists(records: Sequence[Record]) -> list[Record]:
    """For the results' file: the losses of single documents left out, and every number with as many digits as mean
    something."""
    return [{key: _short(value) for key, value in r.items() if key != "losses_before"} for r in records]


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value
