"""`evaluate`: models side by side on the same rows: loss, exactness and closeness of answers, standard suites."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fastft.errors import RecipeError
from fastft.evals.columns import Column, Columns, columns_of
from fastft.evals.options import Options
from fastft.evals.progress import Progress
from fastft.evals.results import ColumnResult, EvaluationReport, Given
from fastft.files import at_home
from fastft.user_console import user_console

if TYPE_CHECKING:
    from fastft.data.tokenizer import ChatTokenizer
    from fastft.evals.asking import Asked
    from fastft.evals.data import EvalData, Question
    from fastft.evals.engines import Engine
    from fastft.evals.scoring import Score
    from fastft.evals.suites import Suites
    from fastft.inference import Generation
    from fastft.metrics import BertScorer

_PACKAGES = ("fastft", "torch", "transformers", "peft", "rouge-score", "sacrebleu")


def evaluate(
    targets: Path | str | Sequence[Path | str],
    *,
    data: Path | str | None = None,
    format: str = "auto",
    split: str = "train",
    base: bool = True,
    tokenizer: Path | None = None,
    out: Path | None = None,
    console: Console | None = None,
    **how: Any,
) -> EvaluationReport:
    """Evaluate runs, adapters, model folders, Hub models and GGUF files on the same rows, and keep the results.

    `data` is any data set that can be trained on (of a Hub set or folder the `split`); without it, what the first run
    among the targets held out. The loss is over the supervised tokens of all rows, answers are asked for `samples` of
    them (0: none). With `base` a column for the model that a target was made of comes first. `tokenizer` is the model
    folder whose tokenizer and template belong to a GGUF outside a run. `out` is the folder for the results; without it
    RUN/eval/NAME, or eval/NAME here. Further options, by name, are those of `Options`: `max_new_tokens` an answer,
    `max_length` of a row in tokens, `dtype` to compute in, `bertscore` a model folder, `tasks` and `task_limit` of
    lm-eval.

    Raises RecipeError, DatasetError and ModelError, before any model is loaded where that can be known.
    """
    from fastft.evals.asking import settle
    from fastft.quiet import library_output_to

    names = [targets] if isinstance(targets, Path | str) else list(targets)
    options = Options(**how)
    console = console or user_console(tireless=True)
    found = columns_of(names, base=base, tokenizer=tokenizer)
    folder = _folder(out, found, data)
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "eval.log"
        with library_output_to(log, console) as user:
            suites = _suites(options, found)
            asked = settle(found, data, format, split, options) if _has_rows(found, data, options) else None
            report = _evaluate(found, asked, suites, folder, options, user)
        report.save(log)
    return report


def _has_rows(found: Columns, data: Path | str | None, options: Options) -> bool:
    """Standard suites alone need no rows: with --tasks a model that held nothing out is run on those."""
    if data is not None or not options.tasks:
        return True
    held_out = found.run.heldout_path if found.run else None
    return held_out is not None and held_out.is_file() and held_out.stat().st_size > 0


def _suites(options: Options, found: Columns) -> Suites | None:
    if not options.tasks:
        return None
    from fastft.evals.suites import Suites

    if all(column.gguf is not None for column in found.columns):
        raise RecipeError("--tasks: lm-eval runs models in transformers, not GGUF files", hint="Name the run instead.")
    found.notes.extend(f"{column.name}: no standard suites of a GGUF" for column in found.columns if column.gguf)
    return Suites(options.tasks, options.task_limit)


def _folder(out: Path | None, found: Columns, data: Path | str | None) -> Path:
    """Where the results go: `out`, or the first free eval/NAME of the run (or here). Nothing that exists is touched."""
    if out is not None:
        out = at_home(out).absolute()
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RecipeError(f"--out {out} exists", hint="Give another place, or remove it.")
        return out
    above = found.run.directory if found.run is not None else Path.cwd()
    name = Path(str(data)).stem if data is not None else "heldout" if found.run is not None else "suites"
    number = 1
    while (folder := above / "eval" / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


def _evaluate(
    found: Columns, asked: Asked | None, suites: Suites | None, folder: Path, options: Options, console: Console
) -> EvaluationReport:
    from fastft.evals.engines import Loader

    loader, done = Loader(options.dtype), []
    try:
        for column in found.columns:
            with Progress(console, column.name) as progress:
                done.append(_column(column, loader, asked, suites, progress))
    finally:
        loader.close()
    settings = {
        "samples": options.samples,
        "max_new_tokens": asked.limit if asked else None,
        "decoding": "greedy",
        "signatures": next((c.text.signatures for c in done if c.text), {}),
        "bertscore": (asked.no_bertscore or "yes") if asked else None,
        "tasks": list(options.tasks),
        "task_limit": options.task_limit,
        "versions": {package: version(package) for package in _PACKAGES},
    }
    shown = next(iter(asked.questions.values())).asked if asked else []
    notes = asked.notes if asked else tuple(found.notes)
    return EvaluationReport(
        folder.name, folder, tuple(done), tuple(shown), asked.facts if asked else {}, settings, notes
    )


def _column(
    column: Column, loader: Any, asked: Asked | None, suites: Suites | None, progress: Progress
) -> ColumnResult:
    from fastft.data.tokenizer import ChatTokenizer

    started = time.perf_counter()
    progress.phase("loading", 0)
    if asked is None:
        engine = loader.open(column, ChatTokenizer.load(column.tokenizer), 0)
        result = ColumnResult(column.name, column.role, column.target, engine.dtype)
    else:
        tokenizer, data, questions = asked.of(column)
        prompt = max((len(question.prompt_ids) for question in questions.asked), default=0)
        engine = loader.open(column, tokenizer, max(data.longest, prompt + asked.limit))
        result = ColumnResult(column.name, column.role, column.target, engine.dtype)
        progress.phase("loss", len(data.examples))
        result = _with_loss(result, data, engine.scores(data.examples, progress.done))
        progress.phase("answers", len(questions.asked))
        given = engine.answers([q.prompt_ids for q in questions.asked], asked.limit, progress.done)
        progress.phase("comparing answers", 0)
        result = _with_answers(result, questions.asked, given, tokenizer, asked.scorer)
    result = _with_suites(result, column, engine, suites, progress)
    return replace(result, seconds=round(time.perf_counter() - started, 3))


def _with_loss(result: ColumnResult, data: EvalData, found: Mapping[int, Score]) -> ColumnResult:
    from fastft.evals.scoring import NOTHING

    by_row: dict[int, Score] = {}
    for index, score in found.items():
        row = data.owner[index]
        by_row[row] = by_row.get(row, NOTHING) + score
    whole = sum(by_row.values(), NOTHING)
    loss = whole.nats / whole.tokens
    return replace(
        result,
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        token_accuracy=whole.right / whole.tokens,
        supervised_tokens=whole.tokens,
        rows=by_row,
    )


def _with_answers(
    result: ColumnResult,
    asked: Sequence[Question],
    generations: Sequence[Generation],
    tokenizer: ChatTokenizer,
    scorer: BertScorer | None,
) -> ColumnResult:
    from fastft.metrics import text_scores

    if not asked:
        return result
    given = [
        Given(tokenizer.decode(g.ids, skip_special_tokens=True), len(g.ids), g.stop_reason == "stop")
        for g in generations
    ]
    return replace(
        result,
        text=text_scores([one.text for one in given], [question.expected for question in asked], scorer),
        expected_length=sum(question.expected_tokens for question in asked) / len(asked),
        answer_length=sum(one.tokens for one in given) / len(given),
        stopped=sum(one.stopped for one in given) / len(given),
        given=tuple(given),
    )


def _with_suites(
    result: ColumnResult, column: Column, engine: Engine, suites: Suites | None, progress: Progress
) -> ColumnResult:
    from fastft.evals.engines import TransformersEngine

    if suites is None or not isinstance(engine, TransformersEngine):
        return result
    progress.phase("standard suites", 0)
    return replace(result, tasks=suites.run(engine.model.model, column, engine.prompts_a_batch()))
