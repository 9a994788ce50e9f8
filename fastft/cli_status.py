"""`fastft status`."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(short_help="How a run stands: living or dead, its last step, what to do next.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, with all of the history.")
def status(run: Path, as_json: bool) -> None:
    """Tell how the run directory RUN stands, also while it trains: whether its process lives, which step it is at,
    from which checkpoint it would go on, what became of it before, its exports, and what to do next.

    Example:
      fastft status runs/quickstart
    """
    from fastft import report
    from fastft.standing import status as status_of
    from fastft.user_console import user_console

    standing = status_of(run)
    if as_json:
        click.echo(json.dumps(standing.as_dict(), indent=2))
        return
    user_console().print(report.standing(standing))
