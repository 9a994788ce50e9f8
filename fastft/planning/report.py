"""What `fastft plan` shows: a column for each device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fastft.planning.work import checkpointing_of
from fastft.time_left import spoken

if TYPE_CHECKING:
    from fastft.checking import CheckReport
    from fastft.planning.devices import Planned

_PARTS = {"weights": "weights", "lora": "LoRA", "optimizer": "optimiser", "activations": "activations",
          "cross_entropy": "cross entropy", "overhead": "overhead"}  # fmt: skip
_SPOKEN = 100  # seconds from which they are told in minutes
_TRAINED_WHOLE = "gradients"  # what `lora` holds where everything is trained


def plan_report(checked: CheckReport, planned: Sequence[Planned]) -> RenderableType:
    """The head of what `check` says, the table, and for each device that is too small what would fit on it."""
    parts: list[RenderableType] = [_head(checked, planned[0]), _table(checked, planned)]
    parts += [Text(line, style="yellow") for each in planned for line in _too_small(checked, each)]
    parts += [Text(f"! {each.card.name}: {one}", style="yellow") for each in planned for one in each.lost]
    parts += [
        Text(f"! {warning}", style="yellow")
        for warning in checked.warnings
        if "of memory will be" not in warning and not any(warning in each.lost for each in planned)
    ]
    return Group(*parts)


def _head(checked: CheckReport, first: Planned) -> RenderableType:
    recipe, plan = checked.recipe, first.plan
    bits = "4 bits" if recipe.model.load_in_4bit else "8 bits" if recipe.model.load_in_8bit else "16 bits"
    bits = "32 bits, all trained" if recipe.model.full_finetuning else bits
    size = (
        f"{_count(plan.parameters)} parameters in {bits} · {_count(plan.trainable)} trained"
        if plan.parts
        else "its config.json doesn't tell its sizes as fastft knows them, so memory, time and disk can't be planned"
    )
    grid = Table.grid(padding=0)
    grid.add_column(width=9, no_wrap=True, style="bold cyan")
    grid.add_column(overflow="fold")
    grid.add_row("model", Text(f"{recipe.model.model_name} · {size}"))
    grid.add_row("data", Text(checked.data.audit.summary()))
    return grid


def _table(checked: CheckReport, planned: Sequence[Planned]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", style="bold cyan", no_wrap=True)
    for each in planned:
        table.add_column(each.card.name, justify="right", no_wrap=True)
    for label, of in _rows(checked, planned):
        table.add_row(label, *(of(each) for each in planned))
    return table


def _rows(checked: CheckReport, planned: Sequence[Planned]) -> Iterator[tuple[str, Callable[[Planned], str | Text]]]:
    if all(each.plan.parts for each in planned):
        for key, label in _PARTS.items():
            whole = key == "lora" and checked.recipe.lora is None
            yield _TRAINED_WHOLE if whole else label, lambda each, key=key: _part(each, key)
        yield "peak", lambda each: gigabytes(each.plan.memory)
        yield "device has", lambda each: gigabytes(each.card.memory)
        yield "fits", _verdict
    yield "micro-batch", _micro_batch
    yield "accumulation", lambda each: f"{each.arguments['gradient_accumulation_steps']:,}"
    yield "recomputed", _recomputed(checked)
    if all(each.plan.parts for each in planned):
        yield "largest batch", lambda each: f"{each.plan.largest_batch:,}"
        yield "longest sequence", lambda each: f"{each.plan.longest_sequence:,}"
    yield "steps", lambda each: f"{each.plan.steps:,}"
    yield "epochs", lambda each: f"{each.plan.epochs:.3g}"
    yield (
        "prompt tokens" if checked.plan.work and checked.plan.work.written else "tokens",
        lambda each: f"{each.plan.trained_tokens:,}",
    )
    if all(each.plan.parts for each in planned):
        yield "time, at least", lambda each: _time(each, 0)
        yield "time, at most", lambda each: _time(each, 1)
        yield "a step", _step
        for name in planned[0].plan.disk:
            yield name.removeprefix("export "), lambda each, name=name: gigabytes(each.plan.disk.get(name, 0))
        yield "disk in all", lambda each: gigabytes(each.plan.disk_total)


def _verdict(each: Planned) -> Text:
    return Text("yes", style="green") if each.fits else Text("no", style="bold red")


def _micro_batch(each: Planned) -> str:
    batch = each.arguments["per_device_train_batch_size"]
    length = each.plan.work.longest if each.plan.work else 0
    return f"{batch:,} × {length:,}"


def _recomputed(checked: CheckReport) -> Callable[[Planned], str]:
    def of(each: Planned) -> str:
        way = checkpointing_of(checked.recipe, each.arguments)
        return "offloaded" if way == "unsloth" and not each.card.is_cpu else "yes" if way else "no"

    return of


def _part(each: Planned, key: str) -> str:
    """A chunk of the loss is gone before the backward pass takes as much: then it is no part of the peak."""
    size = getattr(each.plan.parts, key)
    if key == "cross_entropy" and not size and each.plan.work and each.plan.work.loss != "score":
        return "(shared)"
    return gigabytes(size)


def _time(each: Planned, end: int) -> str:
    return spoken(each.plan.seconds.total[end]) if each.plan.seconds else "?"


def _step(each: Planned) -> str:
    if each.plan.step_seconds is None:
        return "?"
    least, most = each.plan.step_seconds
    return spoken(least) + " – " + spoken(most) if least > _SPOKEN else f"{least:.2g} – {most:.2g} s"


def _too_small(checked: CheckReport, each: Planned) -> Iterator[str]:
    if each.fits is not False:
        return
    has = gigabytes(each.card.memory)
    if each.impossible:
        yield (
            f"! {each.card.name}: impossible. The weights of {checked.recipe.model.model_name} alone are more than "
            f"its {has}, even in 4 bits; take a smaller model or a larger device"
        )
        return
    yield f"! {each.card.name}: {gigabytes(each.plan.memory)} are needed and it has {has}."
    if not each.remedies:
        yield "    Nothing that a recipe can say makes it fit: take a smaller model or a larger device"
    for overrides, memory in each.remedies:
        yield f"    fits with {gigabytes(memory)}: {overrides}"


def gigabytes(size: float) -> str:
    """Bytes for people, with one more digit where there are few."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 or not size else f"{size / 1e6:,.0f} MB"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:,.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:,.2f} M"
