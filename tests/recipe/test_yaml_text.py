"""YAML 1.1's traps, and that what is written reads back the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastft.errors import RecipeError
from fastft.recipe import yaml_text
from fastft.recipe.document import read_value
from fastft.recipe.load import load_recipe
from tests.recipe.conftest import VALID


def read(text: str) -> Any:
    node = yaml_text.compose(text)
    assert node is not None
    return read_value(node)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1E4", 1e4),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("5", 5),
        ("+5", 5),
        ("010", 10),
        ("0x10", 16),
        ("0o10", 8),
        ("no", "no"),
        ("off", "off"),
        ("Yes", "Yes"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("12:30:00", "12:30:00"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("'5'", "5"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        (".5e", ".5e"),
        ("1.2.3", "1.2.3"),
        ("-", [None]),
    ],
)
def test_scalars_mean_what_they_look_like(text: str, value: Any) -> None:
    got = read(text)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        "no",
        "2e-5",
        "1e5",
        "010",
        "true",
        "null",
        "~",
        "",
        "12:30",
        "2024-01-01",
        "0x1f",
        "a: b",
        "- a",
        "#x",
        "🦥 é",
        "two\nlines",
        " spaced ",
        2e-5,
        1e-300,
        1e22,
        -3,
        0.1,
        True,
        None,
        [],
        {},
        [["a"], {"b": None}],
    ],
)
def test_what_is_written_reads_back_the_same(value: Any) -> None:
    text = yaml_text.dump({"key": value})
    assert read(text) == {"key": value}
    assert yaml.safe_load(text) == {"key": value}, "and other readers, of YAML 1.1, read the same"


# what is written under training | the key | the value
TRAPS = [
    ("learning_rate: 2e-5", "learning_rate", 2e-5),
    ("learning_rate: '2e-5'", "learning_rate", 2e-5),
    ("learning_rate: 1", "learning_rate", 1),
    ("num_train_epochs: 3", "num_train_epochs", 3),
    ("max_steps: '16'", "max_steps", 16),
    ("max_steps: 3.0", "max_steps", 3),
    ("max_steps: 1_000", "max_steps", 1000),
    ("max_steps: -1", "max_steps", -1),
    ("logging_steps: 10.0", "logging_steps", 10),
    ("save_steps: 0.25", "save_steps", 0.25),
    ("packing: 'true'", "packing", True),
    ("packing: yes", "packing", True),
    ("packing: off", "packing", False),
    ("packing: 1", "packing", True),
    ("report_to: no", "report_to", "none"),
    ("report_to: false", "report_to", "none"),
    ("report_to: null", "report_to", "none"),
    ("report_to: []", "report_to", "none"),
    ("report_to: none", "report_to", "none"),
    ("eval_strategy: no", "eval_strategy", "no"),
    ("eval_strategy: false", "eval_strategy", "no"),
    ("save_strategy: no", "save_strategy", "no"),
    ("save_strategy: 'no'", "save_strategy", "no"),
    ("run_name: no", "run_name", "no"),
    ("lr_scheduler_kwargs: {min_lr: 1e-6}", "lr_scheduler_kwargs", {"min_lr": 1e-6}),
]


@pytest.mark.parametrize(("line", "key", "value"), TRAPS)
def test_a_trap_is_read_as_meant(write: Callable[[str], Path], line: str, key: str, value: Any) -> None:
    got = load_recipe(write(VALID + f"training:\n  {line}\n")).training[key]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.05", 0.05),
        ("'0.05'", 0.05),
        ("5e-2", 0.05),
        ("200", 200),
        ("'200'", 200),
        ("test", "test"),
        ("test[:100]", "test[:100]"),
        ("null", None),
    ],
)
def test_held_out_rows(write: Callable[[str], Path], text: str, value: Any) -> None:
    got = load_recipe(write(VALID + f"  eval_split: {text}\n")).data.eval_split
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    "line", ["eval_strategy: true", "run_name: true", "run_name: 5", "max_steps: 3.5", "max_steps: no"]
)
def test_a_trap_that_could_mean_two_things_is_refused(write: Callable[[str], Path], line: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(VALID + f"training:\n  {line}\n"))
    assert [fault.where for fault in caught.value.faults] == [f"recipe.yaml:8 training.{line.split(':')[0]}"]
