"""The command `preview`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Show what is trained on: examples, one row, packed sequences.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("-n", "--count", type=click.IntRange(min=1), default=3, show_default=True, help="How many are shown.")
@click.option("--row", metavar="K", help="What became of row K: its number from 1, or a place (chats.jsonl:17).")
@click.option("--packed", is_flag=True, help="Show packed sequences, and where each document begins and ends.")
@click.option("--ids", is_flag=True, help="Show each token's id behind it.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a page instead.")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def preview(
    recipe: Path,
    overrides: tuple[str, ...],
    count: int,
    row: str | None,
    packed: bool,
    ids: bool,
    html: Path | None,
    overwrite: bool,
) -> None:
    """Show what RECIPE trains on, token by token: learned text in colour and ⟦brackets⟧, the rest dim.

    OVERRIDES are section.key=value, checked like the file. Nothing is written but the page asked for and,
    where preparing the data took long, the cache of prepared data.

    \b
    Examples:
      fastft preview recipes/quickstart.yaml
      fastft preview recipes/quickstart.yaml --row 17
      fastft preview recipes/quickstart.yaml --packed -n 1
      fastft preview recipes/quickstart.yaml --ids --html preview.html
    """
    from rich.console import Console

    from fastft.previewing import page_place, preview_recipe

    place = page_place(html, overwrite=overwrite) if html else None
    shown = preview_recipe(recipe, overrides, count=count, row=row, packed=packed)
    if place is None:
        Console(highlight=False).print(shown.text(ids=ids), soft_wrap=True)
        return
    from fastft.files import write_text

    write_text(place, shown.html(ids=ids))
    click.echo(f"wrote {place}")
