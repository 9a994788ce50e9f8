"""Broken recipes: each fault with its line, what was found, what was expected, and the way out."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastft.errors import RecipeError
from fastft.recipe.load import load_recipe
from tests.recipe.conftest import VALID, FaultsOf

Write = Callable[[str], Path]

# added below VALID | where | found | part of expected | part of the hint
BROKEN = [
    ("optimiser: adam\n", "recipe.yaml:7 optimiser", "unknown key", "", "training.optim"),
    ("trainng:\n  seed: 1\n", "recipe.yaml:7 trainng", "unknown key", "", "Did you mean training?"),
    ("learning_rate: 1e-4\n", "recipe.yaml:7 learning_rate", "unknown key here", "", "belongs in training:"),
    ("training:\n  learning_rte: 1\n", "recipe.yaml:8 training.learning_rte", "unknown key", "", "learning_rate?"),
    ("training:\n  r: 1\n", "recipe.yaml:8 training.r", "unknown key here", "", "r belongs in lora:"),
    ("training:\n  revision: a\n", "recipe.yaml:8 training.revision", "unknown key here", "", "model: or data:"),
    ("training:\n  Packing: true\n", "recipe.yaml:8 training.Packing", "unknown key", "", "Did you mean packing?"),
    ("training:\n  zzz: 1\n", "recipe.yaml:8 training.zzz", "unknown key", "", "fields of SFTConfig"),
    ("evaluation:\n  prompt: hi\n", "recipe.yaml:8 evaluation.prompt", "unknown key", "", "Did you mean prompts?"),
    ("export:\n  zzz: 1\n", "recipe.yaml:8 export.zzz", "unknown key", "", "formats, quantization_method, dtype"),
    ("training: 5\n", "recipe.yaml:7 training", "found 5", "a mapping", ""),
    ("training:\n- a\n", "recipe.yaml:7 training", "found [a]", "a mapping", ""),
    ("export: gguf\n", "recipe.yaml:7 export", 'found "gguf"', "a mapping", "Write export: {formats: gguf}"),
    ("method: dpoo\n", "recipe.yaml:7 method", 'found "dpoo"', "one of sft, dpo", "Did you mean dpo?"),
    ("output_dir: ''\n", "recipe.yaml:7 output_dir", 'found ""', "text", ""),
    ("training:\n  learning_rate: fast\n", "recipe.yaml:8 training.learning_rate", 'found "fast"', "a number", ""),
    ("training:\n  learning_rate: 0\n", "recipe.yaml:8 training.learning_rate", "found 0", "above 0", ""),
    ("training:\n  learning_rate: 20\n", "recipe.yaml:8 training.learning_rate", "found 20", "at most 1", ""),
    ("training:\n  learning_rate: .nan\n", "recipe.yaml:8 training.learning_rate", "found .nan", "a number", ""),
    ("training:\n  max_grad_norm: .inf\n", "recipe.yaml:8 training.max_grad_norm", "found .inf", "a number", ""),
    ("training:\n  num_train_epochs: -1\n", "recipe.yaml:8 training.num_train_epochs", "found -1", "above 0", ""),
    ("training:\n  num_train_epochs: null\n", "recipe.yaml:8 training.num_train_epochs", "found null", "a number", ""),
    ("training:\n  max_steps: 0\n", "recipe.yaml:8 training.max_steps", "found 0", "at least 1", ""),
    ("training:\n  max_length: 4\n", "recipe.yaml:8 training.max_length", "found 4", "at least 8", ""),
    ("training:\n  max_length: null\n", "recipe.yaml:8 training.max_length", "found null", "a whole number", ""),
    ("training:\n  warmup_steps: -0.1\n", "recipe.yaml:8 training.warmup_steps", "found -0.1", "at least 0", ""),
    (
        "training:\n  warmup_steps: 2.5\n",
        "recipe.yaml:8 training.warmup_steps",
        "found 2.5",
        "whole number of steps",
        "",
    ),
    ("training:\n  weight_decay: -1\n", "recipe.yaml:8 training.weight_decay", "found -1", "at least 0", ""),
    (
        "training:\n  optim: adamw_8bits\n",
        "recipe.yaml:8 training.optim",
        'found "adamw_8bits"',
        "one of",
        "adamw_8bit?",
    ),
    (
        "training:\n  lr_scheduler_type: cosin\n",
        "recipe.yaml:8 training.lr_scheduler_type",
        'found "cosin"',
        "one of linear, cosine",
        "Did you mean cosine?",
    ),
    (
        "training:\n  per_device_train_batch_size: 0\n",
        "recipe.yaml:8 training.per_device_train_batch_size",
        "found 0",
        "a whole number of at least 1",
        "",
    ),
    (
        "training:\n  per_device_train_batch_size: 2.5\n",
        "recipe.yaml:8 training.per_device_train_batch_size",
        "found 2.5",
        "a whole number",
        "",
    ),
    (
        "training:\n  per_device_train_batch_size: true\n",
        "recipe.yaml:8 training.per_device_train_batch_size",
        "found true",
        "a whole number",
        "",
    ),
    ("training:\n  packing: perhaps\n", "recipe.yaml:8 training.packing", 'found "perhaps"', "true or false", ""),
    ("training:\n  report_to: wandbb\n", "recipe.yaml:8 training.report_to", 'found "wandbb"', "wandb", "wandb?"),
    (
        "training:\n  report_to: swanlab\n",
        "recipe.yaml:8 training.report_to",
        'found "swanlab"',
        "installed",
        "report_to: none",
    ),
    ("training:\n  output_dir: x\n", "recipe.yaml:8 training.output_dir", "cannot be set here", "", "--output-dir"),
    ("training:\n  hub_token: hf_x\n", "recipe.yaml:8 training.hub_token", "cannot be set here", "", "HF_TOKEN"),
    ("evaluation:\n  max_new_tokens: 0\n", "recipe.yaml:8 evaluation.max_new_tokens", "found 0", "at least 1", ""),
    ("evaluation:\n  prompts: [1]\n", "recipe.yaml:8 evaluation.prompts[0]", "found 1", "text", 'in quotes: "1"'),
    (
        "export:\n  formats:\n  - gguf\n  - ggml\n",
        "recipe.yaml:10 export.formats[1]",
        'found "ggml"',
        "merged_16bit, merged_4bit, gguf, gguf_lora, adapter, hub",
        "gguf?",
    ),
    ("export:\n  formats: ollama\n", "recipe.yaml:8 export.formats", 'found "ollama"', "gguf", "Modelfile"),
    (
        "export:\n  formats: [gguf]\n  quantization_method: [q4km]\n",
        "recipe.yaml:9 export.quantization_method[0]",
        'found "q4km"',
        "one of f32, f16, bf16, q8_0, q6_k",
        "Did you mean q4_k_m?",
    ),
    ("export:\n  dtype: bf16\n", "recipe.yaml:8 export.dtype", 'found "bf16"', "bfloat16", "Did you mean bfloat16?"),
    ("training:\n  seed: 1\n  seed: 2\n", "recipe.yaml:9 training.seed", "written twice (first on line 8)", "once", ""),
    (
        "training:\n  optim: !!python/name:os.system x\n",
        "recipe.yaml:8 training.optim",
        "found the tag !!python/name:os.system",
        "",
        "",
    ),
    (
        "training: &a\n  lr_scheduler_kwargs: *a\n",
        "recipe.yaml:8 training.lr_scheduler_kwargs",
        "holds itself through an alias",
        "",
        "",
    ),
    ("? [a, b]\n: c\n", "recipe.yaml:7", "a key that is no text", "", ""),
]

# base | where | found | part of expected | part of the hint
BROKEN_BASES = [
    ("lora: {r: 8}\ndata: {path: a/b}\n", "recipe.yaml model.model_name", "missing", "fastft/tiny", "model_name: "),
    ("model: {model_name: fastft/tiny}\nlora: {}\n", "recipe.yaml data.path", "missing", "Hub id", "path: "),
    (
        "model: fastft/tiny\nlora: {}\ndata: {path: a/b}\n",
        "recipe.yaml:1 model",
        'found "fastft/tiny"',
        "mapping",
        "{model_name: fastft/tiny}",
    ),
    (
        "model: {model_nme: a/b}\nlora: {}\ndata: {path: a/b}\n",
        "recipe.yaml:1 model.model_nme",
        "unknown key",
        "",
        "model_name?",
    ),
    (VALID.replace("r: 8", "r: 0"), "recipe.yaml:4 lora.r", "found 0", "at least 1", ""),
    (VALID.replace("r: 8", "r: eight"), "recipe.yaml:4 lora.r", 'found "eight"', "a whole number", ""),
    (VALID.replace("r: 8", "lora_dropout: 1"), "recipe.yaml:4 lora.lora_dropout", "found 1", "below 1", ""),
    (VALID.replace("r: 8", "bias: None"), "recipe.yaml:4 lora.bias", 'found "None"', "none, all, lora_only", "none?"),
    (
        VALID.replace("r: 8", "target_modules: q_proj,v_proj"),
        "recipe.yaml:4 lora.target_modules",
        'found "q_proj,v_proj"',
        "auto",
        "[q_proj, v_proj]",
    ),
    (
        VALID.replace("r: 8", "target_modules: []"),
        "recipe.yaml:4 lora.target_modules",
        "found []",
        "a list of text",
        "",
    ),
    (
        VALID.replace("r: 8", "layers_to_transform: [-1]"),
        "recipe.yaml:4 lora.layers_to_transform[0]",
        "found -1",
        "at least 0",
        "",
    ),
    (VALID.replace("  r: 8\n", ""), "recipe.yaml:3 lora", "missing", "what is to be trained", "full_finetuning"),
    (VALID.replace("  r: 8\n", "  - 8\n"), "recipe.yaml:3 lora", "found [8]", "a mapping", ""),
    (
        VALID + "  format: sharegtp\n",
        "recipe.yaml:7 data.format",
        'found "sharegtp"',
        "sharegpt",
        "Did you mean sharegpt?",
    ),
    (
        VALID + "  eval_split: 1.0\n",
        "recipe.yaml:7 data.eval_split",
        "found 1.0",
        "a share between 0 and 1",
        "0.05 for 5 %",
    ),
    (VALID + "  eval_split: 1.5\n", "recipe.yaml:7 data.eval_split", "found 1.5", "a whole number of rows", "100 for"),
    (VALID + "  eval_split: 0\n", "recipe.yaml:7 data.eval_split", "found 0", "a share between 0 and 1", ""),
    (VALID + "  eval_split: -5\n", "recipe.yaml:7 data.eval_split", "found -5", "a whole number of rows", "100 for"),
    (VALID + "  eval_split: 5%\n", "recipe.yaml:7 data.eval_split", 'found "5%"', "a share", "0.05"),
    (VALID + "  eval_split: true\n", "recipe.yaml:7 data.eval_split", "found true", "a share", ""),
    (VALID + "  columns: [a]\n", "recipe.yaml:7 data.columns", "found [a]", "a mapping", ""),
    (VALID + "  columns: {text: 5}\n", "recipe.yaml:7 data.columns", "found {text: 5}", "a mapping", ""),
    (VALID + "  revision: 5\n", "recipe.yaml:7 data.revision", "found 5", "text or null", '"5"'),
    (VALID + "  revision: None\n", "recipe.yaml:7 data.revision", 'found "None"', "text or null", "null"),
    (VALID.replace("owner/name", "[]"), "recipe.yaml:6 data.path", "found []", "Hub id", ""),
    (VALID.replace("owner/name", "{path: a/b}"), "recipe.yaml:6 data.path", "found {path: a/b}", "a list", "a hyphen"),
    *(
        (VALID.replace("owner/name", f"\n    - a/b\n    - {entry}"), f"recipe.yaml:8 data.path[1]{key}", *said)
        for entry, key, *said in (
            ("5", "", "found 5", "a mapping with a path", "{path: chats.jsonl, fraction: 0.5}"),
            ("''", "", 'found ""', "a mapping with a path", ""),
            ("{weight: 2}", "", "an entry without path", "a path in each entry", ""),
            ("{path: a/b, wieght: 2}", ".wieght", "unknown key", "a key of an entry", "Did you mean weight?"),
            ("{path: a/b, zzz: 2}", ".zzz", "unknown key", "a key of an entry", "An entry takes path, name, split"),
            ("{path: a/b, fraction: 1.5}", ".fraction", "found 1.5", "above 0 and at most 1", "a share of the rows"),
            ("{path: a/b, fraction: 0}", ".fraction", "found 0", "above 0 and at most 1", "a share of the rows"),
            ("{path: a/b, count: true}", ".count", "found true", "at least 1", "count a number"),
            ("{path: a/b, count: 2.5}", ".count", "found 2.5", "at least 1", "count a number"),
            ("{path: a/b, weight: -1}", ".weight", "found -1", "above 0", "how often"),
            ("{path: a/b, format: share-gpt}", ".format", 'found "share-gpt"', "sharegpt", "Did you mean sharegpt?"),
            ("{path: a/b, columns: [x]}", ".columns", "found [x]", "a mapping", ""),
            ("{path: a/b, count: 3, weight: 1}", "", "found count and weight", "one of fraction, count", ""),
        )
    ),
]


@pytest.mark.parametrize(("added", "where", "found", "expected", "hint"), BROKEN)
def test_one_fault_is_told_with_its_line(
    faults_of: FaultsOf, added: str, where: str, found: str, expected: str, hint: str
) -> None:
    (fault,) = faults_of(added)
    assert (fault.where, fault.found) == (where, found)
    assert expected in fault.expected
    assert hint in fault.hint


@pytest.mark.parametrize(("base", "where", "found", "expected", "hint"), BROKEN_BASES)
def test_one_fault_in_what_every_recipe_has(
    faults_of: FaultsOf, base: str, where: str, found: str, expected: str, hint: str
) -> None:
    (fault,) = faults_of(base=base)
    assert (fault.where, fault.found) == (where, found)
    assert expected in fault.expected
    assert hint in fault.hint


def test_all_faults_are_told_at_once_in_the_order_of_the_file(faults_of: FaultsOf) -> None:
    added = "  format: x\ntraining:\n  learning_rate: -1\n  fp16: true\n  bf16: true\n  epochs: 3\n"
    added += "export:\n  formats: [x]\n"
    faults = faults_of(added, ["lora.rr=1", "no equals sign"])
    assert [fault.where for fault in faults] == [
        "recipe.yaml:7 data.format",
        "recipe.yaml:9 training.learning_rate",
        "recipe.yaml:10 training.fp16",
        "recipe.yaml:12 training.epochs",
        "recipe.yaml:14 export.formats[0]",
        "override lora.rr=1",
        "override no equals sign",
    ]


def test_the_message_names_the_file_and_counts(write: Write) -> None:
    path = write(VALID + "training:\n  seeds: 1\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).splitlines() == [
        f"{path} has 1 fault:",
        "  recipe.yaml:8 training.seeds: unknown key. Did you mean seed?",
    ]
    assert caught.value.exit_code == 2


def test_a_recipe_with_defaults_alone(write: Write) -> None:
    recipe = load_recipe(write(VALID))
    assert recipe.model.load_in_4bit
    assert recipe.model.max_seq_length is None
    assert recipe.lora is not None
    assert recipe.lora.r == 8
    assert recipe.lora.lora_alpha is None
    assert dict(recipe.training) == {}
    assert recipe.evaluation.samples == 64
    assert recipe.export.formats == ()
    assert recipe.export.quantization_method == ("q8_0",)
    assert recipe.output_dir == "runs/recipe"
    assert recipe.source is not None


def test_empty_sections_take_their_defaults(write: Write) -> None:
    recipe = load_recipe(write(VALID + "training:\nevaluation:\nexport:\n"))
    assert recipe == load_recipe(write(VALID))


def test_full_finetuning_has_no_lora_and_no_4_bits(write: Write) -> None:
    recipe = load_recipe(write("model:\n  model_name: a/b\n  full_finetuning: true\ndata:\n  path: a/b\n"))
    assert recipe.lora is None
    assert not recipe.model.load_in_4bit


def test_a_mapping_is_checked_as_a_file_is() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe({"model": {"model_name": "a/b"}, "lora": {"rank": 8}, "data": {"path": "a/b"}})
    assert [str(fault) for fault in caught.value.faults] == ["recipe lora.rank: unknown key. In fastft it is lora.r"]


def test_a_mapping_is_left_as_it_is() -> None:
    values = {"model": {"model_name": "a/b"}, "lora": {}, "data": {"path": "a/b"}, "training": {"seed": 1}}
    recipe = load_recipe(values, ["training.seed=2"])
    assert recipe.training["seed"] == 2
    assert values["training"] == {"seed": 1}


def test_a_recipe_comes_back_equal_and_with_its_file(write: Write) -> None:
    path = write(VALID)
    recipe = load_recipe(path)
    again = load_recipe(recipe)
    assert again == recipe
    assert again.source == path
    assert load_recipe(recipe, ["training.seed=5"]).training == {"seed": 5}
    assert recipe.training == {}


def test_neither_torch_nor_transformers_is_imported(write: Write) -> None:
    path = write(
        VALID + "  eval_split: 0.1\n  chat_template: chatml\ntraining:\n  optim: adamw_8bit\n  report_to: none\n"
    )
    code = (
        "import sys; from fastft.recipe.load import load_recipe; load_recipe(sys.argv[1]);"
        "print([m for m in ('torch', 'transformers', 'trl', 'unsloth', 'datasets', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loading_is_quick(write: Write) -> None:
    """Cold: the caches of the parsed sources are emptied. In processor time of a count to a million beside it."""
    from fastft.recipe import training_arguments, trl_config

    path = write(VALID + "training:\n  optim: adamw_8bit\n  learning_rate: 1e-4\n")
    for cached in (trl_config.config_fields, trl_config.source_of, trl_config._enum, training_arguments._adapter):
        cached.cache_clear()
    begun = time.process_time()
    load_recipe(path)
    loaded = time.process_time()
    sum(i * i % 7 for i in range(1_000_000))
    assert (loaded - begun) / (time.process_time() - loaded) < 4


def test_a_mixture_is_read_and_written(write: Callable[[str], Path]) -> None:
    entries = "\n    - a/b\n    - {path: c/d, fraction: 0.5, split: test, format: text, columns: {text: body}}\n"
    recipe = load_recipe(write(VALID.replace("owner/name", entries)))
    assert recipe.as_dict()["data"]["path"] == [
        {"path": "a/b"},
        {"path": "c/d", "split": "test", "format": "text", "columns": {"text": "body"}, "fraction": 0.5},
    ]
    assert load_recipe(recipe) == recipe
    assert load_recipe(recipe, ["data.path=[a/b, {path: x/y, count: 5}]"]).as_dict()["data"]["path"] == [
        {"path": "a/b"},
        {"path": "x/y", "count": 5},
    ]


def test_every_fault_of_a_mixture_is_told(faults_of: FaultsOf) -> None:
    entries = "\n    - {path: a/b, weight: 0, fraction: 2}\n    - 5\n    - {nmae: x}\n"
    assert [fault.where for fault in faults_of(base=VALID.replace("owner/name", entries))] == [
        "recipe.yaml:7 data.path[0].fraction",
        "recipe.yaml:7 data.path[0].weight",
        "recipe.yaml:8 data.path[1]",
        "recipe.yaml:9 data.path[2]",
        "recipe.yaml:9 data.path[2].nmae",
    ]


def test_steps_on_the_command_line_take_the_place_of_epochs_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "x"}\n')
    head = f"model: {{model_name: fastft/tiny}}\nlora: {{r: 4}}\ndata: {{path: {data}}}\n"
    path.write_text(head + "training: {num_train_epochs: 2}\n")
    assert dict(load_recipe(path, ["training.max_steps=3"]).training) == {"max_steps": 3}
    path.write_text(head + "training: {max_steps: 2}\n")
    assert dict(load_recipe(path, ["training.num_train_epochs=3"]).training) == {"num_train_epochs": 3}
    with pytest.raises(RecipeError, match="together with num_train_epochs"):
        load_recipe(path, ["training.max_steps=3", "training.num_train_epochs=3"])
