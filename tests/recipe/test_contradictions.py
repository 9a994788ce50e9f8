"""Values that are each fine and do not go together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fastft.recipe.load import load_recipe
from tests.recipe.conftest import VALID, FaultsOf

FULL = "model:\n  model_name: a/b\n  full_finetuning: true\ndata:\n  path: a/b\n"
EVAL = "  eval_split: 0.1\n"

# added below VALID | where | part of found | part of expected
CLASHES = [
    ("training:\n  fp16: true\n  bf16: true\n", "8 training.fp16", "fp16 and bf16 true", "at most one"),
    (
        "training:\n  max_steps: 5\n  num_train_epochs: 1\n",
        "8 training.max_steps",
        "num_train_epochs: 1",
        "one of them",
    ),
    ("training:\n  eval_strategy: steps\n", "8 training.eval_strategy", "without data.eval_split", "held-out rows"),
    ("training:\n  eval_on_start: true\n", "8 training.eval_on_start", "without data.eval_split", "held-out rows"),
    (
        "training:\n  load_best_model_at_end: true\n",
        "8 training.load_best_model_at_end",
        "without data.eval_split",
        "held-out",
    ),
    ("evaluation:\n  samples: 5\n", "8 evaluation.samples", "found 5 without data.eval_split", "held-out rows"),
    (
        EVAL + "training:\n  load_best_model_at_end: true\n",
        "9 training.load_best_model_at_end",
        "without evaluation",
        "steps or epoch",
    ),
    (
        EVAL + "training:\n  load_best_model_at_end: true\n  eval_strategy: epoch\n",
        "9 training.load_best_model_at_end",
        "eval_strategy: epoch and save_strategy: steps",
        "the same strategy",
    ),
    (
        EVAL
        + "training:\n  load_best_model_at_end: true\n  eval_strategy: steps\n  eval_steps: 10\n  save_steps: 25\n",
        "12 training.save_steps",
        "found 25 with eval_steps: 10",
        "a multiple of 10",
    ),
    (
        EVAL + "training:\n  eval_strategy: epoch\n  eval_steps: 5\n",
        "10 training.eval_steps",
        "eval_strategy: epoch",
        "steps",
    ),
    (EVAL + "training:\n  eval_steps: 5\n", "9 training.eval_steps", "without eval_strategy", "eval_strategy: steps"),
    (
        "training:\n  save_strategy: no\n  save_steps: 5\n",
        "9 training.save_steps",
        "save_strategy: no",
        "save_strategy: steps",
    ),
    (
        "training:\n  lr_scheduler_type: constant\n  warmup_steps: 5\n",
        "9 training.warmup_steps",
        "no warm-up",
        "with_warmup",
    ),
    ("training:\n  lr_scheduler_type: greedy\n", "8 training.lr_scheduler_type", "without evaluation", "eval_strategy"),
    (
        "training:\n  lr_scheduler_type: cosine_with_min_lr\n",
        "8 training.lr_scheduler_type",
        "alone",
        "min_lr or min_lr_rate",
    ),
    ("training:\n  packing_strategy: bfd\n", "8 training.packing_strategy", "without packing", "packing: true"),
    (
        "training:\n  packing: true\n  packing_strategy: wrapped\n",
        "9 training.packing_strategy",
        "data.train_on: assistant",
        "bfd",
    ),
    (
        "  truncation: drop\ntraining:\n  packing: true\n  packing_strategy: bfd_split\n",
        "10 training.packing_strategy",
        "data.truncation: drop",
        "packing_strategy: bfd",
    ),
    (
        "training:\n  packing: true\n  train_sampling_strategy: group_by_length\n",
        "9 training.train_sampling_strategy",
        "packing: true",
        "one of them",
    ),
    (
        "training:\n  dataloader_prefetch_factor: 2\n",
        "8 training.dataloader_prefetch_factor",
        "without workers",
        "at least 1",
    ),
    ("  eval_split: train\n", "7 data.eval_split", "data.split: train", "another split"),
    ("  split: train[:90%]\n  eval_split: train\n", "8 data.eval_split", "data.split: train[:90%]", "another split"),
    ("  format: text\n  train_on: last\n", "8 data.train_on", "no turns", "all"),
    ("export:\n  quantization_method: q4_k_m\n", "8 export.quantization_method", "without gguf", "formats: [gguf]"),
    (
        "export:\n  formats: [gguf]\n  quantization_method: []\n",
        "9 export.quantization_method",
        "found []",
        "at least one",
    ),
]


@pytest.mark.parametrize(("added", "where", "found", "expected"), CLASHES)
def test_a_contradiction_is_one_fault(faults_of: FaultsOf, added: str, where: str, found: str, expected: str) -> None:
    (fault,) = faults_of(added)
    assert fault.where == f"recipe.yaml:{where}"
    assert found in fault.found
    assert expected in fault.expected


MODEL = "model:\n  model_name: a/b\n  {}\n  {}\nlora: {{}}\ndata: {{path: a/b}}\n"


def test_a_length_is_not_above_the_models(faults_of: FaultsOf) -> None:
    (fault,) = faults_of("", ["model.max_seq_length=2048", "training.max_length=4096"])
    said = "found 4096 with model.max_seq_length: 2048; expected at most 2048"
    assert str(fault).startswith(f"override training.max_length=4096: {said}")


@pytest.mark.parametrize(
    ("one", "other", "where"),
    [
        ("load_in_4bit: true", "load_in_8bit: true", "4 model.load_in_8bit"),
        ("load_in_4bit: true", "load_in_16bit: true", "4 model.load_in_16bit"),
        ("load_in_8bit: true", "load_in_16bit: true", "4 model.load_in_16bit"),
    ],
)
def test_one_way_of_loading(faults_of: FaultsOf, one: str, other: str, where: str) -> None:
    (fault,) = faults_of(base=MODEL.format(one, other))
    assert fault.where == f"recipe.yaml:{where}"


@pytest.mark.parametrize("way", ["load_in_8bit", "load_in_16bit"])
def test_another_way_of_loading_alone_turns_4_bits_off(write: Callable[[str], Path], way: str) -> None:
    assert not load_recipe(write(MODEL.format(f"{way}: true", ""))).model.load_in_4bit


def test_4_bits_with_full_finetuning(faults_of: FaultsOf) -> None:
    (fault,) = faults_of(base=FULL.replace("  full", "  load_in_4bit: true\n  full"))
    assert fault.where == "recipe.yaml:4 model.full_finetuning"
    assert fault.found == "found model.load_in_4bit and model.full_finetuning true"
    assert fault.hint == "model.load_in_4bit is at recipe.yaml:3"


def test_lora_with_full_finetuning(faults_of: FaultsOf) -> None:
    (fault,) = faults_of("lora:\n  r: 8\n", base=FULL)
    assert fault.where == "recipe.yaml:6 lora"
    assert "model.full_finetuning is at recipe.yaml:3" in fault.hint


def test_neither_lora_nor_full_finetuning(faults_of: FaultsOf) -> None:
    (fault,) = faults_of("lora: null\n", base="model: {model_name: a/b}\ndata: {path: a/b}\n")
    assert (fault.where, fault.found) == ("recipe.yaml:3 lora", "missing")


def test_gradient_checkpointing_said_twice(faults_of: FaultsOf) -> None:
    base = VALID.replace("r: 8", "use_gradient_checkpointing: unsloth")
    (fault,) = faults_of("training:\n  gradient_checkpointing: false\n", base=base)
    assert fault.found == 'found false with lora.use_gradient_checkpointing: "unsloth"'


@pytest.mark.parametrize("key", ["name: sub", "split: test", "revision: main", "eval_split: test"])
def test_hub_keys_with_a_local_file(faults_of: FaultsOf, tmp_path: Path, key: str) -> None:
    (tmp_path / "chats.jsonl").write_text("{}\n")
    (fault,) = faults_of(base=VALID.replace("owner/name", "chats.jsonl") + f"  {key}\n")
    assert fault.where == f"recipe.yaml:7 data.{key.split(':')[0]}"


def test_the_training_file_held_out(faults_of: FaultsOf, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text("{}\n")
    (fault,) = faults_of(base=VALID.replace("owner/name", "chats.jsonl") + "  eval_split: ./chats.jsonl\n")
    assert fault.found == "the file that is trained on"


MIXED = VALID.replace("owner/name", "[a/b, {path: chats.jsonl, weight: 2}]")


@pytest.mark.parametrize(
    ("added", "where", "found", "expected"),
    [
        ("  name: sub\n", "7 data.name", 'found "sub" with a list in data.path', "one data set"),
        ("  split: test\n", "7 data.split", 'found "test" with a list in data.path', "one data set"),
        ("  eval_split: test\n", "7 data.eval_split", 'found "test" with a list in data.path', "a share, a count"),
        ("  eval_split: chats.jsonl\n", "7 data.eval_split", "the file that is trained on", "another file"),
        ("  format: text\n  train_on: tool_calls\n", "8 data.train_on", "no turns", "all"),
    ],
)
def test_what_a_mixture_does_not_go_with(
    faults_of: FaultsOf, tmp_path: Path, added: str, where: str, found: str, expected: str
) -> None:
    (tmp_path / "chats.jsonl").write_text("{}\n")
    (fault,) = faults_of(added, base=MIXED)
    assert fault.where == f"recipe.yaml:{where}"
    assert found in fault.found
    assert expected in fault.expected


def test_hub_keys_in_an_entry_that_is_a_file(faults_of: FaultsOf, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text("{}\n")
    entries = "\n    - a/b\n    - {path: chats.jsonl, revision: main}\n"
    (fault,) = faults_of(base=VALID.replace("owner/name", entries))
    assert str(fault) == (
        "recipe.yaml:8 data.path[1]: revision: main with the local chats.jsonl; expected a Hub id with it."
        " Leave revision out"
    )


def test_a_value_at_fault_is_not_told_twice(faults_of: FaultsOf) -> None:
    """Without the faulty value the default would stand, and clash where nothing clashes."""
    faults = faults_of(base=FULL.replace("  full", "  load_in_4bit: maybe\n  full"))
    assert [fault.where for fault in faults] == ["recipe.yaml:3 model.load_in_4bit"]


@pytest.mark.parametrize(
    "added",
    [
        "training:\n  max_steps: -1\n  num_train_epochs: 1\n",
        "training:\n  eval_strategy: no\n",
        "evaluation:\n  samples: 0\n",
        EVAL + "training:\n  load_best_model_at_end: true\n  eval_strategy: epoch\n  save_strategy: epoch\n",
        EVAL + "training:\n  load_best_model_at_end: true\n  eval_strategy: epoch\n  save_strategy: best\n",
        EVAL
        + "training:\n  load_best_model_at_end: true\n  eval_strategy: steps\n  eval_steps: 0.1\n  save_steps: 0.3\n",
        "  train_on: all\ntraining:\n  packing: true\n  packing_strategy: wrapped\n",
        "  split: train[:90%]\n  eval_split: train[90%:]\n",
        "training:\n  max_length: 2048\n",
        "training:\n  gradient_checkpointing: false\n",
        "export:\n  formats: []\n",
    ],
)
def test_what_goes_together_is_left_alone(write: Callable[[str], Path], added: str) -> None:
    load_recipe(write(VALID + added))
