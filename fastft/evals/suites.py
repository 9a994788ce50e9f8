"""Standard suites (ARC, HellaSwag, MMLU, …) through EleutherAI's lm-eval, on the model that is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastft.errors import DatasetError, RecipeError
from fastft.files import at_home
from fastft.recipe.suggest import nearest

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

    from fastft.evals.columns import Column

Suite = dict[str, dict[str, float]]  # task -> metric -> value, as lm-eval names them
_FILES = (".yaml", ".yml")


class Suites:
    """Tasks of lm-eval by name, or YAML files of one's own, found and loaded before any model is."""

    def __init__(self, tasks: Sequence[str], limit: int | None) -> None:
        """`limit` is the number of rows a task, None for all.

        Raises RecipeError if lm-eval isn't installed or a task isn't known, DatasetError if its data can't be had.
        """
        self._manager = _task_manager(own_files=all(task.endswith(_FILES) for task in tasks))
        self._tasks = [self._known(task) for task in tasks]
        self._limit = limit
        try:
            self._manager.load(list(self._tasks))
        # Whatever a task's data set, or its own code, raises.
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DatasetError(
                f"lm-eval can't load {', '.join(tasks)}: {reason}",
                hint="The data of most tasks comes from the Hub once, and from its cache after that.",
            ) from error

    def run(self, model: Any, column: Column, batch_size: int) -> Suite:
        """Each task's values and their standard errors. `model` is transformers' or PEFT's; prompts are lm-eval's own,
        without the chat template, as published numbers have it."""
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(column.tokenizer), local_files_only=True, trust_remote_code=False)
        settings: dict[str, Any] = {"backend": "causal", "tokenizer": tokenizer, "batch_size": batch_size}
        wrapped = HFLM(pretrained=model, **settings)  # pyright: ignore[reportCallIssue] (its base class is dynamic)
        found: Any = simple_evaluate(
            wrapped, tasks=list(self._tasks), limit=self._limit, task_manager=self._manager, log_samples=False
        )
        return {task: _values(metrics) for task, metrics in found["results"].items()}

    def _known(self, task: str) -> str:
        """The task as lm-eval takes it. Raises RecipeError."""
        if task.endswith(_FILES):
            if not at_home(task).is_file():
                raise RecipeError(f"--tasks: there is no file {task}")
            return str(at_home(task).absolute())
        if task not in self._manager.all_tasks:
            close = nearest(task, self._manager.all_tasks)
            raise RecipeError(
                f"--tasks: lm-eval knows no task {task}",
                hint=f"Did you mean {close}?" if close else "See them all: lm-eval ls tasks.",
            )
        return task


def _task_manager(*, own_files: bool) -> TaskManager:
    """Reading lm-eval's thousands of tasks takes seconds, and is left out where only files are named."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise RecipeError(
            "--tasks needs the package lm-eval, which is not installed",
            hint='Install it: uv sync --extra eval, or pip install "fastft[eval]".',
        ) from error
    return TaskManager(include_defaults=not own_files)


def _values(metrics: dict[str, Any]) -> dict[str, float]:
    """lm-eval calls them "acc,none": metric and filter."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, float | int) and "," in name}
    return {name.removesuffix(",none"): float(value) for name, value in numbers.items()}
