"""Keys of other tools are answered with the name they have here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fastft.errors import RecipeError
from fastft.recipe.advice import sections, top_level
from fastft.recipe.foreign import FORMER, TOOLS
from fastft.recipe.load import load_recipe
from fastft.trainers import METHODS
from tests.recipe.conftest import FaultsOf

TABLES = {**TOOLS, "former": FORMER}
ENTRIES = [(tool, key, ours) for tool, table in TABLES.items() for key, ours in table.items()]


def test_every_entry_points_at_a_key_that_exists() -> None:
    assert len(ENTRIES) > 150
    for tool, key, ours in ENTRIES:
        section, _, name = ours.target.partition(".")
        assert ours.target or ours.note, f"{tool}'s {key}"
        known = {key for method in METHODS for key in sections(method).get(section, ())}
        assert not name or name in known, f"{tool}'s {key} is sent to {ours.target}"
        assert not section or section in top_level(), f"{tool}'s {key} is sent to {ours.target}"


def test_no_entry_stands_for_a_key_of_ours() -> None:
    """Such an entry would never be looked up, or would send a key away from where it is valid."""
    for tool, key, _ in ENTRIES:
        section, _, name = key.rpartition(".")
        homes = [section] if section else list(sections())
        assert not any(name in sections()[home] for home in homes), f"{tool}'s {key}"


AXOLOTL = """\
base_model: NousResearch/Llama-3.2-1B
load_in_8bit: false
load_in_4bit: true
datasets:
  - path: teknium/GPT4-LLM-Cleaned
    type: alpaca
val_set_size: 0.1
output_dir: ./outputs/qlora-out
adapter: qlora
sequence_len: 2048
sample_packing: true
lora_r: 32
lora_alpha: 16
lora_target_modules: [q_proj, v_proj]
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 1
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
flash_attention: true
warmup_ratio: 0.1
special_tokens:
  pad_token: "<|end_of_text|>"
"""

LLAMA_FACTORY = """\
model_name_or_path: meta-llama/Llama-3.2-3B-Instruct
stage: sft
do_train: true
finetuning_type: lora
quantization_bit: 4
lora_rank: 8
lora_target: all
dataset: identity
template: llama3
cutoff_len: 2048
max_samples: 1000
preprocessing_num_workers: 16
output_dir: saves/llama3
plot_loss: true
overwrite_output_dir: true
per_device_train_batch_size: 1
val_size: 0.1
"""

TRL = """\
model_name_or_path: Qwen/Qwen2.5-0.5B
dataset_name: trl-lib/Capybara
use_peft: true
lora_r: 32
load_in_4bit: true
max_seq_length: 1024
learning_rate: 2.0e-4
evaluation_strategy: steps
"""

STUDIO = """\
model: unsloth/Qwen2.5-0.5B
data:
  dataset: tatsu-lab/alpaca
  format_type: auto
training:
  training_type: lora
  max_seq_length: 2048
  load_in_4bit: true
  num_epochs: 1
  batch_size: 2
  random_seed: 3407
  train_on_completions: false
lora:
  lora_r: 64
  use_loftq: false
logging:
  enable_wandb: false
"""

TORCHTUNE = """\
model:
  _component_: torchtune.models.llama3_2.qlora_llama3_2_3b
  lora_attn_modules: ['q_proj', 'v_proj']
  lora_rank: 64
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
checkpointer:
  checkpoint_dir: /tmp/Llama-3.2-3B-Instruct/
dataset:
  packed: False
batch_size: 4
optimizer:
  lr: 3e-4
epochs: 1
dtype: bf16
enable_activation_checkpointing: True
"""

# recipe | the tool that is named | line and key | where it is sent
WHOLE = [
    (
        AXOLOTL,
        "Axolotl",
        [
            ("1 base_model", "model.model_name"),
            ("3 load_in_4bit", "model:"),
            ("4 datasets", "data.path"),
            ("7 val_set_size", "data.eval_split"),
            ("9 adapter", "a lora: section"),
            ("10 sequence_len", "max_seq_length"),
            ("11 sample_packing", "training.packing"),
            ("12 lora_r", "lora.r"),
            ("13 lora_alpha", "lora:"),
            ("16 micro_batch_size", "training.per_device_train_batch_size"),
            ("17 num_epochs", "training.num_train_epochs"),
            ("18 optimizer", "training.optim"),
            ("19 lr_scheduler", "training.lr_scheduler_type"),
            ("20 learning_rate", "training:"),
            ("22 flash_attention", "Leave it out"),
            ("23 warmup_ratio", "training.warmup_steps"),
            ("24 special_tokens", "chat template"),
        ],
    ),
    (
        LLAMA_FACTORY,
        "LLaMA-Factory",
        [
            ("1 model_name_or_path", "model.model_name"),
            ("2 stage", "method"),
            ("3 do_train", "A flag for scripts"),
            ("4 finetuning_type", "lora"),
            ("5 quantization_bit", "model.load_in_4bit"),
            ("6 lora_rank", "lora.r"),
            ("7 lora_target", "lora.target_modules"),
            ("8 dataset", "data.path"),
            ("9 template", "data.chat_template"),
            ("10 cutoff_len", "model.max_seq_length"),
            ("12 preprocessing_num_workers", "training.dataset_num_proc"),
            ("16 per_device_train_batch_size", "training:"),
            ("17 val_size", "data.eval_split"),
        ],
    ),
    (
        TRL,
        "TRL's command line",
        [
            ("1 model_name_or_path", "model.model_name"),
            ("2 dataset_name", "data.path"),
            ("3 use_peft", "lora"),
            ("4 lora_r", "lora.r"),
            ("5 load_in_4bit", "model:"),
            ("6 max_seq_length", "model:"),
            ("7 learning_rate", "training:"),
            ("8 evaluation_strategy", "training.eval_strategy"),
        ],
    ),
    (
        STUDIO,
        "Unsloth",
        [
            ("1 model", "model_name: unsloth/Qwen2.5-0.5B"),
            ("3 data.dataset", "data.path"),
            ("4 data.format_type", "data.format"),
            ("6 training.training_type", "a lora: section"),
            ("7 training.max_seq_length", "training.max_length"),
            ("8 training.load_in_4bit", "model:"),
            ("9 training.num_epochs", "training.num_train_epochs"),
            ("10 training.batch_size", "training.per_device_train_batch_size"),
            ("11 training.random_seed", "training.seed"),
            ("12 training.train_on_completions", "data.train_on"),
            ("14 lora.lora_r", "lora.r"),
            ("15 lora.use_loftq", "LoftQ"),
            ("16 logging", "training.report_to"),
        ],
    ),
    (
        TORCHTUNE,
        "torchtune",
        [
            ("2 model._component_", "model.model_name"),
            ("3 model.lora_attn_modules", "lora.target_modules"),
            ("4 model.lora_rank", "lora.r"),
            ("5 tokenizer", "Leave it out"),
            ("7 checkpointer", "model.model_name"),
            ("9 dataset", "data.path"),
            ("11 batch_size", "per_device_train_batch_size"),
            ("12 optimizer", "training.optim"),
            ("14 epochs", "num_train_epochs"),
            ("15 dtype", "model: or export:"),
            ("16 enable_activation_checkpointing", "lora.use_gradient_checkpointing"),
        ],
    ),
]


@pytest.mark.parametrize(("text", "tool", "answers"), WHOLE, ids=[tool for _, tool, _ in WHOLE])
def test_a_recipe_of_another_tool_is_answered_key_by_key(
    write: Callable[[str], Path], text: str, tool: str, answers: list[tuple[str, str]]
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(text))
    hints = {fault.where: fault.hint for fault in caught.value.faults}
    for place, ours in answers:
        assert ours in hints[f"recipe.yaml:{place}"], place
    # What is there under another name is not called missing as well.
    assert not {"recipe.yaml model.model_name", "recipe.yaml lora"} & hints.keys()
    assert caught.value.hint.startswith(f"This reads like a recipe for {tool}.")


def test_a_recipe_of_ours_with_one_foreign_key_is_not_called_foreign(faults_of: FaultsOf) -> None:
    (fault,) = faults_of("training:\n  micro_batch_size: 4\n")
    assert str(fault) == (
        "recipe.yaml:8 training.micro_batch_size: unknown key. In fastft it is training.per_device_train_batch_size"
    )


@pytest.mark.parametrize("key", ["api_key", "hf_tok", "my_password", "OPENAI_API_KEY"])
def test_a_secret_under_an_unknown_key_is_called_one(faults_of: FaultsOf, key: str) -> None:
    (fault,) = faults_of(f"training:\n  {key}: abc\n")
    assert fault.hint == "A secret has no place in a recipe; give it by a variable such as HF_TOKEN"
    assert "abc" not in str(fault)


def test_names_that_anyone_uses_tell_of_no_tool(write: Callable[[str], Path]) -> None:
    text = "model: {name: fastft/tiny}\ntraining: {lr: 1e-4, batch_size: 4, epochs: 1}\n"
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(text))
    assert "reads like" not in caught.value.hint
    hints = {fault.where: fault.hint for fault in caught.value.faults}
    assert hints["recipe.yaml:1 model.name"] == "In fastft it is model.model_name"
