"""The command `eval`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fastft.evals import SAMPLES


@click.command(name="eval", short_help="Measure models side by side: loss, exact answers, ROUGE, BLEU, chrF.")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option("--data", metavar="FILE", help="Rows to evaluate on, in any format; default: what the run held out.")
@click.option("--format", default="auto", show_default=True, metavar="NAME", help="How the rows are laid out.")
@click.option("--split", default="train", show_default=True, help="Split of a Hub set or a folder.")
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=SAMPLES,
    show_default=True,
    metavar="N",
    help="Rows that are answered; the loss is over all rows.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Longest answer; default: half more than the longest expected one.",
)
@click.option(
    "--max-length",
    type=click.IntRange(min=8),
    metavar="N",
    help="Longest row in tokens; default: the run's, else what the model reads, up to 4,096.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Compute type; default: float32 where it fits.",
)
@click.option("--base/--no-base", default=True, show_default=True, help="Also evaluate the model below.")
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Model folder whose tokenizer and template belong to a GGUF outside a run.",
)
@click.option("--bertscore", metavar="MODEL", help="BERTScore with a model folder, or a Hub id in the local cache.")
@click.option("--tasks", metavar="A,B", help="Standard suites of lm-eval, by name or YAML file.")
@click.option("--task-limit", type=click.IntRange(min=1), metavar="N", help="Rows of each suite; default: all.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Default: RUN/eval/NAME.")
@click.option("--json", "as_json", is_flag=True, help="Print results.json instead of the table.")
def evaluate_command(
    targets: tuple[str, ...], data: str | None, format: str, split: str, samples: int, max_new_tokens: int | None,
    max_length: int | None, dtype: str | None, base: bool, tokenizer: Path | None, bertscore: str | None,
    tasks: str | None, task_limit: int | None, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Evaluate each TARGET: a run directory, an adapter, a model folder, a Hub id or a GGUF file.

    Results, answers and a log are kept in RUN/eval/NAME.

    \b
    Examples:
      fastft eval runs/quickstart
      fastft eval runs/quickstart runs/quickstart/exports/gguf-q8_0 --data test.jsonl
      fastft eval fastft/tiny --data test.jsonl --samples 0
      fastft eval model.gguf --tokenizer runs/quickstart/adapter --data test.jsonl
      fastft eval runs/quickstart --tasks arc_easy,hellaswag --task-limit 200
    """
    from rich.text import Text

    from fastft.evaluating import evaluate
    from fastft.user_console import user_console

    console = user_console(stderr=as_json)
    report = evaluate(
        targets, data=data, format=format, split=split, base=base, tokenizer=tokenizer, out=out, console=console,
        samples=samples, max_new_tokens=max_new_tokens, max_length=max_length, dtype=dtype, bertscore=bertscore,
        tasks=tuple(task.strip() for task in (tasks or "").split(",") if task.strip()), task_limit=task_limit,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
        return
    console.print(report.table())
    for line in report.remarks():
        console.print(Text(line, style="dim"))
    console.print(f"kept in {report.folder}", soft_wrap=True)
