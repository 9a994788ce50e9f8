"""Overrides are laid over the file and checked as the file is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastft.errors import RecipeError
from fastft.recipe.load import load_recipe
from tests.recipe.conftest import VALID, FaultsOf

Write = Callable[[str], Path]


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("training.learning_rate=1e-4", "training", "learning_rate", 1e-4),
        ("training.lr_scheduler_kwargs.min_lr=1e-6", "training", "lr_scheduler_kwargs", {"min_lr": 1e-6}),
        ("training.report_to=no", "training", "report_to", "none"),
        ("model.load_in_4bit=false", "model", "load_in_4bit", False),
        ("model.revision=null", "model", "revision", None),
        ("model.revision=", "model", "revision", None),
        ("model.revision='main'", "model", "revision", "main"),
        ("export.formats=[gguf, merged_16bit]", "export", "formats", ("gguf", "merged_16bit")),
        ("export.formats=gguf", "export", "formats", ("gguf",)),
        ("data.columns={text: body}", "data", "columns", {"text": "body"}),
        ("data.columns.text=body", "data", "columns", {"text": "body"}),
        ("data.path=other/set", "data", "path", "other/set"),
        ("evaluation.prompts=['a = b']", "evaluation", "prompts", ("a = b",)),
        ("lora.r=32", "lora", "r", 32),
    ],
)
def test_an_override_sets_one_value(write: Write, override: str, section: str, key: str, value: Any) -> None:
    recipe = load_recipe(write(VALID), [override])
    found = getattr(recipe, section)
    assert (found[key] if section == "training" else getattr(found, key)) == value


def test_top_level_values_need_no_dot(write: Write) -> None:
    recipe = load_recipe(write(VALID), ["output_dir=runs/x", "method=sft", "lora=null", "model.full_finetuning=true"])
    assert recipe.output_dir == "runs/x"
    assert recipe.lora is None


def test_the_last_override_wins(write: Write) -> None:
    assert load_recipe(write(VALID), ["lora.r=2", "lora.r=4"]).lora == load_recipe(write(VALID), ["lora.r=4"]).lora


def test_a_replaced_section_forgets_its_keys(faults_of: FaultsOf) -> None:
    faults = faults_of(overrides=["lora={rr: 1}"])
    assert [str(fault) for fault in faults] == ["override lora={rr: 1} lora.rr: unknown key. Did you mean r?"]


# override | the whole fault
MALFORMED = [
    ("training.seed", "override training.seed: no = in it; expected section.key=value. For example training.seed=…"),
    ("=5", "override =5: a part of the key is empty; expected section.key=value"),
    ("training.=5", "override training.=5: a part of the key is empty; expected section.key=value"),
    ("seed=5", "override seed=5: unknown key here. seed belongs in training:"),
    ("trainin.seed=5", "override trainin.seed=5 trainin: unknown key. Did you mean training?"),
    ("training.sed=5", "override training.sed=5: unknown key. Did you mean seed?"),
    ("lora.lora_r=5", "override lora.lora_r=5: unknown key. In fastft it is lora.r"),
    ("lora.r=0", "override lora.r=0: found 0; expected a whole number of at least 1 and at most 4096"),
    ("lora.r.x=1", "override lora.r.x=1: lora.r holds a value, not keys; expected a key of a section"),
    (
        "training.report_to=[a",
        "override training.report_to=[a: the value is not valid YAML (expected ',' or ']', but got"
        " '<stream end>'). Quote it for the shell and for YAML, e.g. 'section.key=\"a: b\"'",
    ),
    (
        "data.split=!x y",
        "override data.split=!x y: the value is not valid YAML (found the tag !x). Quote it for the"
        " shell and for YAML, e.g. 'section.key=\"a: b\"'",
    ),
    ("training=5", "override training=5: found 5; expected a mapping of SFTConfig's fields"),
    (
        "export.formats=[x]",
        'override export.formats=[x]: found "x"; expected one of merged_16bit, merged_4bit, gguf, gguf_lora, '
        "adapter, hub",
    ),
]


@pytest.mark.parametrize(("override", "message"), MALFORMED)
def test_a_faulty_override_is_its_own_place(faults_of: FaultsOf, override: str, message: str) -> None:
    assert [str(fault) for fault in faults_of(overrides=[override])] == [message]


def test_a_contradiction_made_by_an_override_is_told_there(faults_of: FaultsOf) -> None:
    (fault,) = faults_of("training:\n  bf16: true\n", ["training.fp16=true"])
    assert fault.where == "override training.fp16=true"
    assert fault.hint == "training.bf16 is at recipe.yaml:8"


def test_an_override_mends_a_fault_of_the_file(write: Write) -> None:
    assert load_recipe(write(VALID + "training:\n  seed: x\n"), ["training.seed=1"]).training == {"seed": 1}


def test_one_text_is_no_list_of_overrides(write: Write) -> None:
    with pytest.raises(TypeError, match="not one text"):
        load_recipe(write(VALID), "training.seed=1")


def test_overrides_reach_a_mapping_and_a_recipe(write: Write) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(load_recipe(write(VALID)), ["training.seed=x"])
    assert [fault.where for fault in caught.value.faults] == ["override training.seed=x"]
