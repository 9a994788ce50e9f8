"""What the terminal shows of an evaluation, and where nothing can be drawn over."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fastft.evaluation import Evaluation
from fastft.progress import working
from fastft.report import evaluation


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
