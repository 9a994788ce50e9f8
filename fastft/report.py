"""What the terminal shows: before training, of an evaluation, and at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from fastft.data.audit import counted
from fastft.errors import printable
from fastft.evals.results import summaries
from fastft.files import at_home
from fastft.run import Run
from fastft.run_files import has_passed, proof_notes, read_export
from fastft.startup import split
from fastft.trainers import find_method

if TYPE_CHECKING:
    from fastft.checking import CheckReport
    from fastft.evaluation import Answer, Evaluation
    from fastft.planning.plan import Plan
    from fastft.standing import Standing
    from fastft.trainers.method import Default

_LABEL_WIDTH = 9
_LEAST_REASON = 20  # columns
_LINES = 8  # of the history that are shown
_WORSE = (
    "! held-out rows are less likely to the model than before training: a lower learning_rate, fewer epochs, or "
    "held-out rows that resemble the others are what to try"
)


def opening(checked: CheckReport, run: Run, *, resumed: bool) -> RenderableType:
    """Two lines of what is about to happen, then what `check` says."""
    where = f"{run.directory} (--new begins another)" if resumed else _placed(checked, run)
    what = f"going on with {where}" if resumed else f"run directory {where}"
    return Group(_Facts([("fastft", what)]), check_report(checked))


def dry_run(checked: CheckReport, going_on: str | None = None) -> RenderableType:
    """What `check` says, and where a run would go: the unfinished one that would go on, in words, or a new one."""
    run = Run(Run.next_directory(Path(checked.recipe.output_dir)))
    export = checked.recipe.export
    names = [name for name in export.formats if name != "gguf"]
    names += [f"gguf-{kind}" for kind in export.gguf_types]
    exports = ", ".join(names) or "none; export.formats: [merged_16bit, gguf] makes some, now or later"
    where = going_on or f"would go to {_placed(checked, run)}"
    return Group(check_report(checked), _Facts([("exports", exports), ("run", where)]))


def _placed(checked: CheckReport, run: Run) -> str:
    """The run's directory, and why it isn't the recipe's if it isn't."""
    wanted = Run(at_home(checked.recipe.output_dir).absolute())
    taken = "" if wanted == run else f" ({_short(wanted.directory)} exists and is left alone)"
    return _short(run.directory) + taken


def check_report(checked: CheckReport) -> RenderableType:
    """Data, plan, and the defaults that were chosen, each with its reason."""
    recipe, audit, plan = checked.recipe, checked.data.audit, checked.plan
    bits = "4 bits" if recipe.model.load_in_4bit and not recipe.model.full_finetuning else "16 bits"
    size = f"{plan.parameters / 1e6:,.1f} M parameters in {bits}" if plan.parameters else "unknown size"
    facts = [
        ("model", f"{_named(recipe.model.model_name)} · {size} · {plan.trainable / 1e6:,.2f} M trained"),
        ("data", audit.summary()),
        ("plan", f"{_steps(checked)} · about {plan.memory / 1e9:.1f} GB at the peak on {_device(checked)}"),
    ]
    parts: list[RenderableType] = [_Facts(facts)]
    if checked.defaults:
        parts.append(_Defaults(checked.defaults))
    parts.extend(Text(f"! {warning}", style="yellow") for warning in checked.warnings)
    return Group(*parts)


def _named(model_name: str) -> str:
    """A run that is trained on is named as short as other places, with the method it was trained by."""
    if not (Path(model_name) / "manifest.json").is_file():
        return model_name
    run = Run(Path(model_name))
    return f"{_short(run.directory)} (a run of {run.manifest()['method']})"


def _steps(checked: CheckReport) -> str:
    """Steps in documents and tokens: packing changes the number of sequences, and not what a step should learn."""
    arguments, plan = checked.arguments, checked.plan
    method = find_method(checked.recipe.method)
    documents = len(checked.data.train) // method.sequences
    sequences = int(arguments["per_device_train_batch_size"]) * int(arguments["gradient_accumulation_steps"])
    share = min(1.0, sequences / max(1, plan.sequences))
    packs = f" in {plan.sequences:,} packs, {plan.packing_efficiency:.0%} full" if plan.packing_efficiency else ""
    if answers := arguments.get("num_generations"):
        return f"{plan.steps:,} steps of {sequences // int(answers):,} prompts with {answers} answers each"
    what = {"preference": "pair", "unpaired": "answer"}.get(method.kind, "document")
    each = f"{counted(round(share * documents), what)}, {counted(round(share * plan.tokens), 'token')} each"
    return f"{counted(plan.steps, 'step')} of {each}{packs}"


class _Defaults:
    """What was chosen and why, in columns; where they leave the reasons no room, in lines."""

    def __init__(self, chosen: Iterable[Default]) -> None:
        self._rows = [(default.key, f"{default.value}", default.reason) for default in chosen]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        taken = _LABEL_WIDTH + sum(max(cell_len(row[at]) + 1 for row in self._rows) for at in (0, 1))
        if options.max_width - taken < _LEAST_REASON:
            lines = (f"{key} {value} · {reason}" for key, value, reason in self._rows)
            yield _Facts(("" if at else "chosen", line) for at, line in enumerate(lines))
            return
        chosen = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
        for _ in range(3):
            chosen.add_column(no_wrap=True)
        chosen.add_column(overflow="fold")
        for at, (key, value, reason) in enumerate(self._rows):
            label = Text("" if at else "chosen".ljust(_LABEL_WIDTH - 1), style="bold cyan")
            chosen.add_row(label, key, value, Text(reason, style="dim"))
        yield chosen


def _device(checked: CheckReport) -> str:
    device = checked.device
    return f"the CPU ({counted(device.threads, 'thread')})" if device.is_cpu else device.name


def evaluation(before: Evaluation, after: Evaluation, measures: Mapping[str, str]) -> RenderableType:
    """Before and after side by side, then the fixed prompts with both answers. `measures` are the method's own."""
    table = Table(title="held out", title_justify="left", box=None, padding=(0, 3, 0, 0))
    for name in ("", "before", "after"):
        table.add_column(name, justify="left" if not name else "right")
    if after.loss is not None and before.loss is not None:
        table.add_row("loss", f"{before.loss:.3f}", f"{after.loss:.3f}")
        table.add_row("perplexity", f"{before.perplexity:.2f}", f"{after.perplexity:.2f}")
    for key, label in measures.items():
        if key in after.metrics and key in before.metrics:
            table.add_row(label, f"{before.metrics[key]:.3f}", f"{after.metrics[key]:.3f}")
    if after.answers:
        table.add_row(f"exact last answers of {len(after.answers)}", _share(before), _share(after))
    parts: list[RenderableType] = [table] if table.row_count else []
    if before.loss is not None and after.loss is not None and not after.loss <= before.loss:
        parts.append(Text(_WORSE, style="yellow"))
    for first, second in zip(before.prompts, after.prompts, strict=True):
        parts.append(_prompt(first, second))
    return Group(*parts)


def _share(of: Evaluation) -> str:
    return f"{of.exact_share:.0%}" if of.exact_share is not None else "–"


def _prompt(before: Answer, after: Answer) -> Text:
    return Text.assemble(
        ("› ", "bold cyan"), (before.prompt, "bold"), "\n",
        ("  before ", "dim"), before.answer.strip(), "\n",
        ("  after  ", "dim"), (after.answer.strip(), "green"),
    )  # fmt: skip


def speed(training: Mapping[str, Any], plan: Plan) -> RenderableType:
    """How fast the steps were, their memory, and how long it took to get to them: the manifest's `training`."""
    facts = [("start", split(training["startup"]))] if training["startup"]["stages"].get("first step") else []
    if "tokens_per_second" in training:
        facts.insert(0, ("speed", rates(training)))
        peak = f"{training['peak_memory'] / 1e9:.2f} GB at the peak, {plan.memory / 1e9:.2f} planned"
        facts.insert(1, ("memory", peak))
    return _Facts(facts)


def rates(training: Mapping[str, Any]) -> str:
    """One line of what was measured of steps, by the names of `throughput.Window.rates`."""
    if "tokens_per_second" not in training:
        return ""
    parts = [f"{training['tokens_per_second']:,.0f} tokens/s"]
    if "supervised_tokens_per_second" in training:
        parts.append(f"{training['supervised_tokens_per_second']:,.0f} supervised")
    if "mfu" in training:
        parts.append(f"{training['mfu']:.1%} MFU")
    parts.append(f"{training['data_wait']:.1%} waiting for data")
    parts.append(f"{training['padding']:.1%} padding")
    return " · ".join(parts)


def closing(directory: Path) -> RenderableType:
    """Where everything of a run, or of an adapter's folder, lies and what to do next."""
    facts = [("run" if (directory / "recipe.yaml").is_file() else "adapter", _short(directory))]
    facts += [("export", f"{_short(folder)} · {_verdict(folder)}") for folder in _exports(directory)]
    facts += [("eval", line) for line in summaries(directory)]
    facts.append(("next", _next(directory)))
    return _Facts(facts)


def standing(told: Standing) -> RenderableType:
    """How a run stands, what became of it lately, and what to do next."""
    from fastft.standing import in_words

    facts = [("run", _short(told.run)), ("state", f"{told.state}: {told.told}")]
    if told.steps:
        loss = "" if told.loss is None else f" · loss {told.loss:.3f}"
        facts.append(("step", f"{told.step:,} of {told.steps:,}{loss}"))
    if not Run(told.run).finished:
        where = f"the checkpoint after step {told.goes_on_from:,}" if told.goes_on_from else "the first step"
        facts.append(("goes on", f"from {where}"))
    facts += [("damaged", printable(reason)) for reason in told.damaged]
    facts += [("history" if at == 0 else "", in_words(line)) for at, line in enumerate(told.history[-_LINES:])]
    facts += [("export", f"{_short(folder)} · {_verdict(folder)}") for folder in _exports(told.run)]
    facts.append(("next", _next(told.run) if told.state == "finished" else _go_on(told)))
    return _Facts(facts)


def _go_on(told: Standing) -> str:
    if told.state == "running":
        return "wait for it; SIGTERM or Ctrl-C end it with a checkpoint"
    if _failed(told.run):
        return _again(told.run)
    if told.damaged and not told.goes_on_from:
        return f"put a checkpoint back as it was, or begin anew: fastft train {_short(told.run)}/recipe.yaml --new"
    return f"fastft train {_short(told.run)} --resume"


def _failed(directory: Path) -> list[Path]:
    """The exports that were proven to be something else than what was trained."""
    return [
        folder for folder in _exports(directory) if (folder / "verification.json").is_file() and not has_passed(folder)
    ]


def _again(directory: Path) -> str:
    rounded = any(
        read_export(each)["made_from"].get("dtype") == "bfloat16" and proof_notes(each) for each in _failed(directory)
    )
    return f"fastft export {_short(directory)}{' --dtype float16' if rounded else ''} --overwrite"


def _exports(directory: Path) -> list[Path]:
    return sorted(path.parent for path in directory.glob("exports/*/export.json"))


def _next(directory: Path) -> str:
    run = Run(directory)
    if _failed(directory):
        return _again(directory)
    if run.finished and run.manifest().get("method") == "reward":
        return f"judge answers: method grpo with rewards: [{{run: {_short(directory)}}}]"
    return f"fastft chat {_short(directory)}"


def _verdict(export: Path) -> str:
    path = export / "verification.json"
    if not path.is_file():
        return "not verified"
    passed = has_passed(export)
    verdict = "verified against the trained model" if passed else "FAILED verification"
    return "; ".join([verdict, *proof_notes(export)])


def _short(directory: Path) -> str:
    here = Path.cwd()
    return str(directory.relative_to(here) if directory.is_relative_to(here) else directory)


class _Facts:
    """A label and what it says, a line each. A long one is folded below itself, at spaces; a command to copy is not."""

    def __init__(self, facts: Iterable[tuple[str, str]]) -> None:
        self._facts = list(facts)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for label, value in self._facts:
            whole = label == "next" or options.no_wrap
            for at, line in enumerate([value] if whole else _folded(value, options.max_width - _LABEL_WIDTH)):
                beside = (label if at == 0 else "").ljust(_LABEL_WIDTH)
                yield Text.assemble((beside, "bold cyan"), line, no_wrap=True, overflow="ignore")


def _folded(value: str, width: int) -> list[str]:
    """Lines of at most `width` columns; a word that is longer, such as a path, stays whole, to be copied."""
    lines = []
    for part in value.splitlines():
        line, *words = part.split(" ")
        for word in words:
            if cell_len(f"{line} {word}") <= width:
                line += f" {word}"
            else:
                lines.append(line)
                line = word
        lines.append(line)
    return lines
