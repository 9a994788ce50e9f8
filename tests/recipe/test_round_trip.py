"""A recipe's own YAML reads back equal, and no mistake, however odd, ends in anything but a RecipeError."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastft.errors import Fault, RecipeError
from fastft.recipe.advice import sections
from fastft.recipe.load import load_recipe
from tests.recipe.conftest import VALID

FULL = "model:\n  model_name: a/b\n  full_finetuning: true\ndata:\n  path: a/b\n"


@pytest.mark.parametrize(
    "text",
    [
        VALID,
        FULL,
        VALID + "  eval_split: 0.1\nevaluation:\n  samples: 3\n  prompts: ['no', '2e-5', \"a: b\", '🦥']\n",
        VALID
        + "  columns: {text: 'yes'}\nexport:\n  formats: [gguf, merged_16bit]\n  quantization_method: [f16, q4_k_m]\n",
        VALID + "training:\n  learning_rate: 2e-5\n  lr_scheduler_kwargs: {a: 1e-9, b: [1, no]}\n  run_name: '1e5'\n",
        VALID + "training:\n  tf32: null\n",
        VALID.replace(
            "r: 8", "target_modules: [q_proj]\n  use_gradient_checkpointing: false\n  layers_to_transform: [0, 1]"
        ),
        VALID.replace("name: fastft/tiny", "name: a/b\n  load_in_16bit: true\n  dtype: float16\n  revision: '5'"),
    ],
)
def test_a_recipe_reads_back_equal(write: Callable[[str], Path], tmp_path: Path, text: str) -> None:
    recipe = load_recipe(write(text))
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(recipe.to_yaml(), encoding="utf-8")
    again = load_recipe(resolved)
    assert again == recipe
    assert again.to_yaml() == recipe.to_yaml()


def test_the_resolved_recipe_leaves_out_what_has_no_effect(write: Callable[[str], Path]) -> None:
    values = load_recipe(write(VALID)).as_dict()
    assert "samples" not in values["evaluation"]
    assert "quantization_method" not in values["export"]
    assert "max_seq_length" not in values["model"]
    assert "lora" not in load_recipe(write(FULL)).as_dict()


def test_equality_is_of_content(write: Callable[[str], Path]) -> None:
    recipe = load_recipe(write(VALID))
    assert recipe == load_recipe({**recipe.as_dict()})
    assert recipe != load_recipe(recipe, ["lora.r=9"])
    assert recipe != "recipe"


ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    3.5,
    1e9,
    float("nan"),
    float("inf"),
    "",
    " ",
    "no",
    "None",
    "2e-5",
    "x" * 500,
    "é\x07",
    "a\nb",
    "a\nb.jsonl",
    "~nobody-here/x",
    "a\0b.json",
    "a/b",
    "../x.jsonl",
    [],
    [[]],
    [None],
    [1, "a"],
    ["x", {}],
    {},
    {"a": 1},
    {1: 2},
    {"": {}},
    10**30,
    b"bytes",
    {"r": {"r": {"r": 1}}},
    (1, 2),
    {"a"},
    object(),
]


def test_no_odd_value_gets_past_the_messages() -> None:
    """Every key given every odd value, and thousands of recipes with several."""
    chance = random.Random(0)
    keys = [(section, key) for section, names in sections().items() for key in names]
    singles = [(place, value) for place in [*keys, ("model", ""), ("zzz", "a"), ("training", "zz")] for value in ODD]
    refused = 0
    for place, value in chance.sample(singles, 1200):
        refused += _is_refused({place: value})
    for _ in range(600):
        refused += _is_refused({chance.choice(keys): chance.choice(ODD) for _ in range(6)})
    assert refused > 900


def _is_refused(changes: dict[tuple[str, str], Any]) -> bool:
    tree: dict[str, Any] = {"model": {"model_name": "a/b"}, "lora": {}, "data": {"path": "a/b"}}
    for (section, key), value in changes.items():
        tree.setdefault(section, {})[key] = value
    faults = _faults(tree)
    assert not any("\n" in str(fault) for fault in faults)
    return bool(faults)


@pytest.mark.parametrize("section", [*sections(), "method", "output_dir"])
def test_no_odd_section_gets_past_the_messages(section: str) -> None:
    for value in ODD:
        _check_section(section, value)


def _check_section(section: str, value: Any) -> None:
    tree = {"model": {"model_name": "a/b"}, "lora": {}, "data": {"path": "a/b"}, section: value}
    wrong = [fault.where for fault in _faults(tree)]
    assert all(where.startswith("recipe ") for where in wrong)


def _faults(tree: dict[str, Any]) -> tuple[Fault, ...]:
    try:
        load_recipe(tree)
    except RecipeError as error:
        return error.faults
    return ()
