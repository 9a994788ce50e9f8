"""Where in a recipe's own file an error arose."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastft.errors import TrainingError
from fastft.own_code import described, place_in_own_code
from fastft.rewards.function_files import load_name
from fastft.run import Run

_FILE = """\
def fails(then=None):
    return then() if then else [][3]
def wraps():
    try:
        fails()
    except IndexError as error:
        raise ValueError("two lines\\nof it") from error
def silent():
    raise NotImplementedError
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "mine.py").write_text(_FILE)
    (tmp_path / "code.json").write_text(json.dumps([{f"{tmp_path / 'mine.py'}:fails": "0" * 64}]))
    return Run(tmp_path)


def _raised(function: Callable[..., Any], *given: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        function(*given)
    return caught.value


def _of(run: Run, name: str) -> Callable[..., Any]:
    return load_name(f"{run.directory / 'mine.py'}:{name}")


def _library() -> None:
    raise RuntimeError("of a library")


def test_the_innermost_frame_of_the_file_is_named(run: Run) -> None:
    assert place_in_own_code(_raised(_of(run, "fails")), run) == "mine.py:2 in fails"
    assert place_in_own_code(_raised(_of(run, "fails"), _library), run) == "mine.py:2 in fails"
    assert place_in_own_code(_raised(_of(run, "wraps")), run) == "mine.py:7 in wraps"


def test_an_error_raised_elsewhere_from_one_of_the_file_has_its_place(run: Run) -> None:
    error = TrainingError("a reward failed")
    error.__cause__ = _raised(_of(run, "fails"))
    assert place_in_own_code(error, run) == "mine.py:2 in fails"
    assert described(error, run) == "a reward failed"  # which says where itself


def test_an_error_of_others_has_none(run: Run, tmp_path: Path) -> None:
    assert place_in_own_code(_raised(_library), run) == ""
    (tmp_path / "bare").mkdir()
    assert place_in_own_code(_raised(_of(run, "fails")), Run(tmp_path / "bare")) == ""


def test_it_is_described_on_one_line_with_its_type(run: Run) -> None:
    assert described(_raised(_of(run, "wraps")), run) == "ValueError: two lines (mine.py:7 in wraps)"
    assert described(_raised(_of(run, "silent")), run) == "NotImplementedError (mine.py:9 in silent)"
    assert described(_raised(_library), run) == "RuntimeError: of a library"
