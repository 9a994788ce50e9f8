"""The command `plan`."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(short_help="What a recipe will take: memory by part, time, disk, on any device.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option(
    "--device", "devices", multiple=True, metavar="NAME",
    help="T4, L4, A10, RTX4090, A100-40, A100-80, H100, H200, B200, cpu, … or the memory in GiB. Several side by side; "
    "this machine's without any.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the plans as JSON, in bytes and seconds.")
def plan(recipe: Path, overrides: tuple[str, ...], devices: tuple[str, ...], as_json: bool) -> None:
    """Say beforehand what RECIPE will take: memory by part, the largest batch and the longest sequence that fit, steps,
    time as a range, disk. Needs no GPU and no weights; what doesn't fit is told with what would.

    OVERRIDES are section.key=value, checked like the file.

    \b
    Examples:
      fastft plan recipes/qlora_chat.yaml
      fastft plan recipes/qlora_chat.yaml --device T4 --device RTX4090 --device H100
      fastft plan recipes/qlora_chat.yaml --device 24 model.max_seq_length=8192
    """
    from fastft.planning.devices import cards_named, plan_on_devices

    cards = cards_named(devices)
    from fastft.checking import check

    checked = check(recipe, overrides)
    planned = plan_on_devices(checked, cards)
    if as_json:
        facts = {"data": checked.data.audit.as_dict(), "warnings": list(checked.warnings)}
        click.echo(json.dumps({"devices": [each.as_dict() for each in planned], **facts}, indent=2))
        return
    from fastft.planning.report import plan_report
    from fastft.user_console import user_console

    user_console().print(plan_report(checked, planned))
