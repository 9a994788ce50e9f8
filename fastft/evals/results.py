"""What an evaluation found: as values, as a table, and as files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import ModelError, RecipeError
from fastft.files import write_json, write_text
from fastft.reading import read_json

if TYPE_CHECKING:
    from rich.table import Table

    from fastft.evals.data import Question
    from fastft.evals.scoring import Score
    from fastft.metrics import TextScores

RESULTS, GENERATIONS = "results.json", "generations.jsonl"


@dataclass(frozen=True, slots=True)
class Given:
    """One answer: its text, its length in tokens without the stop token, and whether a stop token ended it."""

    text: str
    tokens: int
    stopped: bool


@dataclass(frozen=True, slots=True)
class ColumnResult:
    """What one model reached. Where it wasn't measured a value is None.

    `loss` is the mean negative log-likelihood a supervised token in nats, `perplexity` its exponential,
    `token_accuracy` the share of supervised tokens that are the model's likeliest; lengths are mean tokens an answer.
    `rows` are scores by the index of the conversation.
    """

    name: str
    role: str
    target: str
    dtype: str
    loss: float | None = None
    perplexity: float | None = None
    token_accuracy: float | None = None
    supervised_tokens: int = 0
    text: TextScores | None = None
    expected_length: float | None = None
    answer_length: float | None = None
    stopped: float | None = None
    seconds: float = 0.0
    tasks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    given: Sequence[Given] = field(default=(), repr=False)
    rows: Mapping[int, Score] = field(default_factory=dict, repr=False)

    def value(self, name: str) -> float | None:
        """A number of the table, by its key in results.json."""
        owner = self.text if name in _OF_TEXT else self
        return getattr(owner, name) if owner is not None else None

    def as_dict(self) -> dict[str, Any]:
        facts = ("name", "role", "target", "dtype", "supervised_tokens", "seconds")
        values = {key: getattr(self, key) for key in facts} | {key: self.value(key) for key, *_ in _LINES}
        return values | ({"tasks": {k: dict(v) for k, v in self.tasks.items()}} if self.tasks else {})


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Everything `fastft eval` found. `data` tells of the rows, `settings` of how it was done, `folder` where it is."""

    name: str
    folder: Path
    columns: tuple[ColumnResult, ...]
    questions: tuple[Question, ...] = field(repr=False)
    data: Mapping[str, Any]
    settings: Mapping[str, Any]
    notes: tuple[str, ...]

    def column(self, name: str) -> ColumnResult:
        """The column of that name, such as "base" or "tuned". Raises KeyError."""
        found = next((column for column in self.columns if column.name == name), None)
        if found is None:
            raise KeyError(f"{name}: the columns are {', '.join(column.name for column in self.columns)}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """What results.json holds."""
        return {
            "fastft_evaluation": 1,
            "name": self.name,
            "columns": [column.as_dict() for column in self.columns],
            "data": dict(self.data),
            "settings": dict(self.settings),
            "notes": list(self.notes),
        }

    def table(self) -> Table:
        """A line a measure, a column a model."""
        return table_of(self.as_dict())

    def remarks(self) -> list[str]:
        """How it was done and which rows were left out, for people."""
        data, limit = self.data, self.settings["max_new_tokens"]
        lines = [data["summary"]] if data else []
        lines += [f"greedy answers of at most {limit:,} tokens"] if self.questions else []
        for why, count in data.get("not_asked", {}).items():
            lines.append(f"not answered: {count:,} {'row' if count == 1 else 'rows'}, {why}")
        return [*lines, *self.notes]

    def generations(self) -> Iterator[dict[str, Any]]:
        """A row for each question: prompt, expected answer, and each model's answer with its scores."""
        for number, question in enumerate(self.questions):
            row: dict[str, Any] = {"place": question.place, "prompt": question.text, "expected": question.expected}
            for column in self.columns:
                if column.given:
                    row[column.name] = _row(column, number, question.row)
            yield row

    def save(self, log: Path) -> None:
        """Write the folder in one step, results.json last, and `log` into it. Raises RecipeError if it can't be."""
        partial = self.folder.with_name(f".{self.folder.name}.partial-{os.getpid()}")
        try:
            partial.mkdir(parents=True)
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in self.generations())
            write_text(partial / GENERATIONS, "".join(lines))
            shutil.copyfile(log, partial / "eval.log")
            write_json(partial / RESULTS, self.as_dict())
            partial.replace(self.folder)
        except OSError as error:
            raise RecipeError(
                f"The results can't be written to {self.folder}: {error.strerror}", hint="Name a place with --out."
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _row(column: ColumnResult, number: int, row: int) -> dict[str, Any]:
    given, score = column.given[number], column.rows.get(row)
    values: dict[str, Any] = {"answer": given.text, "tokens": given.tokens, "stopped": given.stopped}
    if column.text is not None:
        values |= column.text.rows[number]
    if score is not None and score.tokens:
        values |= {"loss": score.nats / score.tokens, "token_accuracy": score.right / score.tokens}
    return values


def _share(value: float) -> str:
    return f"{value:.1%}"


def _hundredth(value: float) -> str:
    return f"{100 * value:.1f}"


def _number(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:,.{digits}f}"


# key in results.json, label, format, and where more is better (1), less is (-1), or neither (0)
_LINES: tuple[tuple[str, str, Callable[[float], str], int], ...] = (
    ("loss", "loss", _number(4), -1),
    ("perplexity", "perplexity", _number(2), -1),
    ("token_accuracy", "token accuracy", _share, 1),
    ("exact_match", "exact match", _share, 1),
    ("rouge1", "ROUGE-1", _hundredth, 1),
    ("rouge2", "ROUGE-2", _hundredth, 1),
    ("rougeL", "ROUGE-L", _hundredth, 1),
    ("bleu", "BLEU", _number(1), 1),
    ("chrf", "chrF", _number(1), 1),
    ("bertscore", "BERTScore", _hundredth, 1),
    ("expected_length", "expected tokens", _number(1), 0),
    ("answer_length", "answered tokens", _number(1), 0),
    ("stopped", "answers that stop", _share, 1),
)
_OF_TEXT = {"exact_match", "rouge1", "rouge2", "rougeL", "bleu", "chrf", "bertscore"}


def table_of(results: Mapping[str, Any]) -> Table:
    """The table of what results.json holds. The best of each line is green where there are several models."""
    from rich.table import Table

    columns = results["columns"]
    table = Table(box=None, padding=(0, 3, 0, 0))
    table.add_column("")
    for column in columns:
        table.add_column(column["name"], justify="right", overflow="fold")
    for label, values, shown, better in _table_lines(columns):
        if any(value is not None for value in values):
            table.add_row(label, *_cells(values, shown, better))
    return table


def _table_lines(
    columns: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, list[float | None], Callable[[float], str], int]]:
    for key, label, shown, better in _LINES:
        yield label, [column.get(key) for column in columns], shown, better
    tasks = {(task, metric): None for c in columns for task, of in c.get("tasks", {}).items() for metric in of}
    for task, metric in tasks:
        if "_stderr" not in metric:
            values = [column.get("tasks", {}).get(task, {}).get(metric) for column in columns]
            yield f"{task} {metric}", values, _number(4), 0


def _cells(values: Sequence[float | None], shown: Callable[[float], str], better: int) -> list[Any]:
    from rich.text import Text

    present = [value for value in values if value is not None]
    best = (max(present) if better > 0 else min(present)) if better and len(set(present)) > 1 else None
    return [
        Text("–" if value is None else shown(value), style="green" if value is not None and value == best else "")
        for value in values
    ]


def summaries(directory: Path) -> list[str]:
    """A line for each evaluation kept in a run directory, oldest first: its place, and each model's loss and exactness.

    Another version may have written results that can't be read; the line then says so.
    """
    found = sorted(directory.glob(f"eval/*/{RESULTS}"), key=lambda path: path.stat().st_mtime)
    return [_summary(path) for path in found]


def _summary(path: Path) -> str:
    try:
        columns = read_json(path, ModelError)["columns"]
        models = []
        for column in columns:
            loss, exact = column["loss"], column["exact_match"]
            said = [f"loss {loss:.3f}"] if loss is not None else []
            said += [f"{exact:.0%} exact"] if exact is not None else []
            models.append(" ".join([column["name"], ", ".join(said)]).strip())
    except (ModelError, ValueError, KeyError, TypeError):
        return f"eval/{path.parent.name} · {RESULTS} can't be read"
    return f"eval/{path.parent.name} · " + " · ".join(models)
