"""What the terminal shows of an evaluation, and where nothing can be drawn over."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from fastft.device import the_cpu
from fastft.evaluation import Evaluation
from fastft.exporting import _status
from fastft.progress import working
from fastft.report import _Defaults, closing, evaluation, standing
from fastft.standing import Standing
from fastft.trainers.method import Default
from fastft.user_console import user_console


def shown(before: float | None, after: float | None) -> str:
    out = io.StringIO()
    first, second = (Evaluation(loss, loss and 2.0**loss, 10, (), ()) for loss in (before, after))
    Console(file=out, width=200).print(evaluation(first, second, {}))
    return out.getvalue()


@pytest.mark.parametrize(("before", "after"), [(1.0, 1.5), (1.0, float("nan"))])
def test_a_training_that_made_things_worse_is_told(before: float, after: float) -> None:
    assert "! held-out rows are less likely to the model than before training" in shown(before, after)


@pytest.mark.parametrize(("before", "after"), [(1.5, 1.0), (1.0, 1.0), (None, None)])
def test_one_that_did_not_is_not(before: float | None, after: float | None) -> None:
    assert "!" not in shown(before, after)


@pytest.mark.parametrize("aloud", [True, False])
def test_without_a_terminal_long_work_is_said_in_a_line(aloud: bool) -> None:
    out = io.StringIO()
    with working(Console(file=out, width=200), "loading [the] model", aloud=aloud):
        said = out.getvalue()
    assert said == ("  loading [the] model\n" if aloud else "")


@pytest.mark.parametrize(("columns", "width"), [(None, 300), ("72", 72)])
def test_what_goes_to_no_terminal_is_not_folded(
    columns: str | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    out = io.StringIO()
    user_console(file=out).print("ab " * 100)
    assert max(map(len, out.getvalue().splitlines())) in (width, width - 1, width - 2)


def test_what_is_to_be_copied_is_whole_in_a_narrow_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    folder = tmp_path / ("a-long-name-" * 8)
    folder.mkdir()
    out = io.StringIO()
    user_console(file=out).print(closing(folder))
    assert out.getvalue().splitlines() == [
        f"adapter  {folder}",
        f"next     fastft chat {folder}",
    ]


def test_what_is_told_is_folded_below_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "32")
    out = io.StringIO()
    path = tmp_path / "long"
    told = Standing(tmp_path, "stopped", f"it stopped as its disk was full at {path}", 5, 20, None, 5, (), ())
    user_console(file=out).print(standing(told))
    assert f"state    stopped: it stopped as\n         its disk was full at\n         {path}\n" in out.getvalue()


@pytest.mark.parametrize("quiet", [True, False])
def test_whoever_watches_an_export_hears_of_each_thing_done(quiet: bool) -> None:
    heard: list[None] = []
    with _status(None if quiet else Console(file=io.StringIO()), lambda: heard.append(None)) as done:
        for part in range(3):
            done("merge", part, 3)
    assert len(heard) == 3


@pytest.mark.parametrize(("told", "threads"), [("1", 1), ("0", 1), ("4,2", None), ("", None), ("100000", None)])
def test_threads_are_those_that_torch_goes_by(told: str, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    machine = the_cpu().threads
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert the_cpu().threads == (threads or machine)


@pytest.mark.parametrize(
    ("columns", "said"), [("60", "         optim adamw · on the CPU"), ("80", f"{'optim':>14}{'adamw':>28} on the CPU")]
)
def test_reasons_of_defaults_have_room(columns: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    out = io.StringIO()
    chosen = [Default("gradient_accumulation_steps", 1, "8 sequences a step"), Default("optim", "adamw", "on the CPU")]
    user_console(file=out).print(_Defaults(chosen))
    assert said in [line.rstrip() for line in out.getvalue().splitlines()]
