"""The commands. Each calls one public function and prints what it reports."""

from __future__ import annotations

import io
import json
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import click

from fastft import __version__
from fastft.cli_chat import chat, serve
from fastft.cli_eval import evaluate_command
from fastft.cli_export import export
from fastft.cli_plan import plan
from fastft.cli_preview import preview
from fastft.cli_profile import profile
from fastft.cli_status import status
from fastft.errors import FastftError, printable
from fastft.redaction import redact

_RUN = click.argument("run", type=click.Path(path_type=Path))


class _Command(click.Command):
    """Keeps the line breaks of the examples in the docstrings."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        formatter.write("\n")
        for line in (self.help or "").splitlines():
            formatter.write(f"  {line}\n" if line else "\n")


class _Group(click.Group):
    """Turns the errors that are meant for people into one message and an exit code."""

    command_class = _Command

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):  # a terminal or locale of few characters is no reason to end
            if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                stream.reconfigure(errors="replace")
        if not sys.warnoptions:  # of libraries, which none of our users can heed
            warnings.simplefilter("ignore", FutureWarning)
        try:
            return super().invoke(ctx)
        except FastftError as error:
            if ctx.params.get("traceback"):
                click.echo(redact(traceback.format_exc()), err=True, nl=False)
            _complain(error)
            sys.exit(error.exit_code)
        except click.NoSuchOption as error:
            raise _with_override(error) from None
        except click.ClickException as error:  # quotes what was typed
            vars(error)["message"] = printable(error.message)
            raise
        except (click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:  # noqa: BLE001 -- the last net: a traceback is for those who ask for it
            if ctx.params.get("traceback"):
                click.echo(redact(traceback.format_exc()), err=True, nl=False)
            told = _unforeseen(error)
            _complain(told)
            sys.exit(told.exit_code)
        except KeyboardInterrupt as interrupt:
            code = getattr(interrupt, "exit_code", 130)
            told = "what was finished is kept, and the same command goes on with what is missing"
            click.echo(f"\n{signal.Signals(code - 128).name}: ended at once; {told}", err=True)
            sys.exit(code)


def _unforeseen(error: Exception) -> FastftError:
    """What no part of fastft has put into words."""
    if isinstance(error, ImportError) and "failed to map segment" in str(error):
        return FastftError(
            f"there is too little memory to import what is needed: {error}",
            hint="Importing torch and Unsloth takes 5.5 GB of address space: see `ulimit -v`, and the limits of the "
            "container or job.",
        )
    if isinstance(error, OSError):
        from fastft.disk_space import of_writing

        if (told := of_writing(error, Path.cwd())) is not None:
            return told
        told = FastftError(f"{error.filename or 'a file'} can't be used: {error.strerror or error}")
        told.exit_code = 2
        return told
    reason = (str(error).strip().splitlines() or [""])[0]
    return FastftError(
        f"fastft failed with {type(error).__name__}: {reason}",
        hint="It is a fault of fastft or of a library under it: fastft --traceback COMMAND … shows where it came from.",
    )


def _with_override(error: click.NoSuchOption) -> click.UsageError:
    """Other tools take recipe keys as options: --max_steps 3. Here they are section.key=value."""
    from fastft.recipe.advice import sections
    from fastft.recipe.foreign import foreign_key

    key = error.option_name.lstrip("-").replace("-", "_")
    ours = foreign_key("", key)
    homes = [f"{section}.{key}" for section, keys in sections().items() if key in keys]
    if not ours and not homes:
        return click.UsageError(printable(error.format_message()), error.ctx)
    target = ours.target if ours else homes[0]
    return click.UsageError(f"{error.message} A recipe's key is given without dashes: {target}=VALUE.", error.ctx)


def _complain(error: FastftError) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text.assemble("" if error.wanted else ("error: ", "bold red"), error.message))
    for line in error.fault_lines:
        console.print(Text(f"  {line}"))
    if error.hint:
        console.print(Text(error.hint, style="dim"))


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fastft")
@click.option("--traceback", is_flag=True, help="Show where an error came from.")
def main(traceback: bool) -> None:
    """Fine-tune a language model on one GPU.

    \b
      fastft check  recipes/quickstart.yaml     everything that can be known beforehand, in seconds
      fastft plan   recipes/quickstart.yaml     what it will take: memory, time, disk, on any device
      fastft preview recipes/quickstart.yaml    what is learned, token by token
      fastft train  recipes/quickstart.yaml     train, export, verify
      fastft status runs/quickstart             is it training, did it die, how far is it
      fastft chat   runs/quickstart             talk to it
      fastft export runs/quickstart --quantization q4_k_m
      fastft verify runs/quickstart             is every export still what was trained?
      fastft eval   runs/quickstart             base against tuned: loss, exact match, ROUGE, BLEU
      fastft profile recipes/quickstart.yaml    where the time and memory of a step go
      fastft serve  runs/quickstart             its GGUF behind OpenAI's endpoints
    """


@main.command(short_help="Train what a recipe says; export and verify it.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--output-dir", type=click.Path(path_type=Path), help="Run directory; the recipe's is the default.")
@click.option(
    "--resume/--new", default=None,
    help="Go on with the newest unfinished run (or with the run named), or begin a new one. Without either, a run of "
    "the same recipe goes on from its last checkpoint.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Check everything, print the plan, train nothing.")
def train(
    recipe: Path, overrides: tuple[str, ...], output_dir: Path | None, resume: bool | None, dry_run: bool
) -> None:
    """Train what RECIPE says, export it and verify the exports.

    OVERRIDES are section.key=value, checked like the file.

    Examples:
      fastft train recipes/quickstart.yaml
      fastft train recipes/quickstart.yaml training.learning_rate=1e-4 model.load_in_4bit=false
      fastft train recipes/qlora_chat.yaml --output-dir runs/first --dry-run
      fastft train runs/first --resume
    """
    if dry_run:
        from fastft.recipe.overrides import output_dir_override

        _print_check(recipe, (*overrides, *output_dir_override(output_dir)), resume=resume)
        return
    from fastft.startup import Startup

    startup = Startup.of_process()
    from fastft.out_of_memory import TooLittleMemoryError
    from fastft.training import train as train_recipe

    try:
        train_recipe(recipe, overrides, output_dir=output_dir, resume=resume, startup=startup)
    except TooLittleMemoryError as error:
        if error.run is None:
            raise
        _go_on_afresh(error.run, error)


def _go_on_afresh(run: Path, error: FastftError) -> None:
    """Become a process that has nothing in its memory yet, and go on with less, which the run has noted."""
    import os

    from fastft.child import python_running

    click.echo(f"! {error.message}; once more with an empty memory", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [*python_running("fastft"), "train", str(run), "--resume"])


@main.command(short_help="Check recipe, data, labels, template and sizes; no GPU needed.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the audit and the plan as JSON.")
def check(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check all of RECIPE that can be checked without a GPU: keys, values, data, labels, template, sizes, exports.

    Writes nothing here; data that takes long to prepare is kept in the cache directory for training. Exit code 2 if
    anything is wrong.

    Examples:
      fastft check recipes/quickstart.yaml
      fastft check recipes/quickstart.yaml data.path=my_chats.jsonl
    """
    _print_check(recipe, overrides, as_json=as_json)


def _print_check(
    recipe: Path, overrides: tuple[str, ...], *, as_json: bool = False, resume: bool | None = None
) -> None:
    from fastft import report
    from fastft.foreseen import checked_and_placed
    from fastft.user_console import user_console

    checked, going_on = checked_and_placed(recipe, overrides, resume=resume)
    if as_json:
        facts = {"arguments": dict(checked.arguments), "warnings": list(checked.warnings)}
        facts |= {"data": checked.data.audit.as_dict(), "plan": checked.plan.as_dict()}
        click.echo(json.dumps(facts, indent=2))
        return
    console = user_console()
    console.print(report.dry_run(checked, going_on))
    console.print(checked.data.audit.table())
    console.print("[green]ok[/]")


@main.command(short_help="Compare every export of a run with the trained model.")
@_RUN
def verify(run: Path) -> None:
    """Compare every export of the run directory RUN with the trained model again. Exit code 1 if one differs.

    RUN may be a LoRA adapter's folder too.

    Example:
      fastft verify runs/quickstart
    """
    from fastft.user_console import user_console
    from fastft.verification import verify as verify_it

    verify_it(run, console=user_console())


@main.command(short_help="Run a batch again whose loss was no number.")
@_RUN
@click.option("--step", type=click.IntRange(min=1), required=True, help="The step whose batch was kept.")
def replay(run: Path, step: int) -> None:
    """Compute a batch again that the run RUN kept because its loss was no number, and show where it is worst.

    Nothing is learned and nothing is written.

    Example:
      fastft replay runs/quickstart --step 120
    """
    from fastft.quiet import library_output_to
    from fastft.replaying import describe
    from fastft.replaying import replay as replay_it
    from fastft.run import Run
    from fastft.user_console import user_console

    opened = Run.open(run)
    with library_output_to(opened.log_path, user_console()) as console:
        console.print(describe(replay_it(opened, step)), markup=False)


main.add_command(chat)
main.add_command(export)
main.add_command(plan)
main.add_command(preview)
main.add_command(profile)
main.add_command(evaluate_command)
main.add_command(serve)
main.add_command(status)
