"""`fastft profile`: where the time and the memory of a recipe's steps go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from fastft.profile_kinds import Spent
    from fastft.profiling import Profile


@click.command(short_help="Run some steps of a recipe under torch's profiler.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--steps", type=click.IntRange(min=1), default=10, show_default=True, help="Steps that are measured.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("profile"), show_default=True,
    help="Folder for the trace and the libraries' output.",
)  # fmt: skip
def profile(recipe: Path, overrides: tuple[str, ...], steps: int, out: Path) -> None:
    """Train some steps of RECIPE as `train` would, and show where their time and memory go.

    Three steps warm up, then STEPS run under torch's profiler. No run directory is made.

    \b
    Examples:
      fastft profile recipes/quickstart.yaml
      fastft profile recipes/qlora_chat.yaml training.per_device_train_batch_size=4 --steps 5 --out profile/batch4
    """
    from fastft.profiling import profile as profile_it
    from fastft.user_console import user_console

    console = user_console()
    show(profile_it(recipe, overrides, steps=steps, out=out, console=console), console)


def show(found: Profile, console: Any) -> None:
    """Print the tables of a profile."""
    from fastft.report import rates

    each = found.seconds / found.steps
    console.print(f"{found.steps} steps of {1e3 * each:,.1f} ms · {rates(found.rates)}")
    console.print(_times("time", found.kinds, found))
    what = "kernels" if found.on_gpu else "operations"
    console.print(_times(f"{what} that took most, whatever for", found.operations, found))
    console.print(_memory(found.memory, on_gpu=found.on_gpu))
    to_open = f"{found.trace}: open it at https://ui.perfetto.dev or in chrome://tracing"
    console.print(f"[bold cyan]trace[/]  {to_open}", soft_wrap=True)


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold cyan", box=None, padding=(0, 2, 0, 0))
    table.add_column(columns[0], width=40, no_wrap=True)
    for name in columns[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _times(title: str, rows: Sequence[Spent], found: Profile) -> Table:
    table = _table(title, "", "ms a step", "share", "calls a step")
    whole = max(found.seconds, sum(row.seconds for row in found.kinds))
    for row in rows:
        each, calls = 1e3 * row.seconds / found.steps, row.calls / found.steps
        table.add_row(row.name, f"{each:,.2f}", f"{row.seconds / whole:.1%}", f"{calls:,.0f}" if calls else "")
    return table


def _memory(parts: Mapping[str, int], *, on_gpu: bool) -> Table:
    table = _table(f"memory {'allocated on the GPU' if on_gpu else 'of the process'}, at the peak", "", "MB", "share")
    for name, held in parts.items():
        table.add_row(name, f"{held / 1e6:,.1f}", f"{held / max(1, parts['peak']):.1%}")
    return table
