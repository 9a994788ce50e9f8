"""The arms of the training benchmarks: the same job as people do it by hand, and as fastft does it.

Each is a class that loads the model once and gives a trainer for each set of rows. `plain` is TRL (or, on the CPU,
transformers.Trainer: TRL's own head needs a GPU) with PEFT and bitsandbytes as their documentation shows; `notebook` is
the usual Unsloth notebook; `Fastft` goes fastft's own way, from the recipe on, with nothing chosen here that a recipe
need not say.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from bench.materials import four_bit_options

RANK = 16
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SEED = 3407


class Arm(Protocol):
    """One way to train; `told` says what it chose, for the table."""

    told: dict[str, Any]

    def trainer(self, rows: str) -> Any:
        """A trainer for the set of rows of that name, over a model whose LoRA may have been trained before."""
        ...


class Work:
    """The folder of a benchmark: the model, and for each set of rows the recipe's file and the examples made of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "model"
        self.facts = folder / "facts.json"

    def rows(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def examples(self, name: str) -> Any:
        """The set as token ids and labels, as fastft rendered it: every arm trains on the same."""
        from datasets import load_from_disk

        return load_from_disk(str(self.folder / name))

    def recipe(self, name: str, changes: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """What a user would write, and no more; `changes` are sections' keys to add."""
        facts = json.loads(self.facts.read_text())
        recipe: dict[str, Any] = {
            "model": {"model_name": str(self.model), "max_seq_length": facts["max_length"], "load_in_4bit": True},
            "lora": {"r": RANK},
            "data": {"path": str(self.rows(name))},
            "training": {"num_train_epochs": facts["epochs"], "save_strategy": "no"},
            "export": {"formats": []},
            "output_dir": str(self.folder / "run"),
        }
        for section, values in changes.items():
            recipe[section] |= values
        return recipe

    def schedule(self) -> dict[str, Any]:
        """The learning rate and its course, as usual for this size, for the arms that say it by hand."""
        facts = json.loads(self.facts.read_text())
        return {
            "learning_rate": facts["learning_rate"],
            "lr_scheduler_type": "linear",
            "warmup_steps": 5,
            "num_train_epochs": facts["epochs"],
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "seed": SEED,
            "output_dir": tempfile.mkdtemp(dir=self.folder),
        }


class PlainTransformers:
    """transformers.Trainer with a PEFT LoRA on an NF4 base: padded batches of 8 in random order."""

    def __init__(self, work: Work) -> None:
        from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.work = work
        base = AutoModelForCausalLM.from_pretrained(work.model, **_unless_stored(work.model))
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
        lora = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS), task_type="CAUSAL_LM")
        self.model = get_peft_model(base, lora)
        self.tokenizer = AutoTokenizer.from_pretrained(work.model)
        self.told: dict[str, Any] = {"batch": "8 padded", "checkpointing": False}

    def trainer(self, rows: str) -> Any:
        from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

        arguments = TrainingArguments(per_device_train_batch_size=8, use_cpu=True, **self.work.schedule())
        collator = DataCollatorForSeq2Seq(self.tokenizer, label_pad_token_id=-100)
        return Trainer(self.model, arguments, collator, self.work.examples(rows))


class PlainTrl:
    """TRL's SFTTrainer with PEFT and bitsandbytes: padded batches of 8, gradient checkpointing; or with its packing."""

    def __init__(self, work: Work, *, packing: bool = False) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.work, self.packing = work, packing
        self.model: Any = AutoModelForCausalLM.from_pretrained(work.model, **_unless_stored(work.model))
        self.tokenizer = AutoTokenizer.from_pretrained(work.model)
        self.told: dict[str, Any] = {"batch": "8 packs" if packing else "8 padded", "checkpointing": True}

    def trainer(self, rows: str) -> Any:
        from peft import LoraConfig, PeftModel
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer

        lora = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS), task_type="CAUSAL_LM")
        config = SFTConfig(
            per_device_train_batch_size=8,
            gradient_checkpointing=True,
            bf16=True,
            packing=self.packing,
            max_length=json.loads(self.work.facts.read_text())["max_length"],
            **self.work.schedule(),
        )
        made = SFTTrainer(
            model=self.model,
            args=config,
            train_dataset=self.work.examples(rows),
            processing_class=self.tokenizer,
            peft_config=None if isinstance(self.model, PeftModel) else lora,
        )
        self.model = made.model
        return made


class Notebook:
    """The usual notebook: batch 2, accumulation 4, r 16, checkpointing "unsloth", adamw_8bit, each step logged."""

    def __init__(self, work: Work) -> None:
        from unsloth import FastLanguageModel  # isort: skip  before trl, transformers and peft

        self.work = work
        self.max_length = json.loads(work.facts.read_text())["max_length"]
        self.model, self.tokenizer = FastLanguageModel.from_pretrained(
            model_name=str(work.model), max_seq_length=self.max_length, load_in_4bit=True
        )
        self.model = FastLanguageModel.get_peft_model(
            self.model, r=RANK, target_modules=list(TARGETS), lora_alpha=RANK, lora_dropout=0, bias="none",
            use_gradient_checkpointing="unsloth", random_state=SEED,
        )  # fmt: skip
        self.told: dict[str, Any] = {"batch": "2 x 4", "checkpointing": "unsloth"}

    def trainer(self, rows: str) -> Any:
        from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

        config = SFTConfig(
            per_device_train_batch_size=2,
            gradient_accumulation_steps=4,
            optim="adamw_8bit",
            weight_decay=0.01,
            max_length=self.max_length,
            **self.work.schedule(),
        )
        return SFTTrainer(
            model=self.model, processing_class=self.tokenizer, train_dataset=self.work.examples(rows), args=config
        )


class Fastft:
    """fastft from the recipe on: `check` chooses, `load_model` and the method's `build_trainer` do it."""

    def __init__(self, work: Work, changes: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.work, self.changes = work, changes
        self.loaded: tuple[Any, Any] | None = None
        self.checkpointing: Any = None
        self.told: dict[str, Any] = {}

    def trainer(self, rows: str) -> Any:
        from rich.console import Console

        from fastft.checking import check
        from fastft.model import load_model
        from fastft.progress import progress_callback
        from fastft.throughput import meter_for
        from fastft.trainers import find_method, trainer_builder
        from fastft.trainers.method import Job

        checked = check(self.work.recipe(rows, self.changes))
        if self.loaded is None:
            self.loaded = load_model(checked.recipe.model, checked.recipe.lora, checkpointing=checked.checkpointing)
        model, tokenizer = self.loaded
        tokenizer.chat_template = checked.tokenizer.chat_template
        self.told = {
            "chosen": {default.key: default.value for default in checked.defaults},
            "planned_bytes": checked.plan.memory,
            "checkpointing": checked.checkpointing,
            "warnings": list(checked.warnings),
        }
        run = Path(tempfile.mkdtemp(dir=self.work.folder))
        display = progress_callback(Console(quiet=True), run / "metrics.jsonl", find_method("sft").displayed)
        job = Job(model, tokenizer, checked.data, checked.arguments, run / "checkpoints", [display])
        trainer = trainer_builder("sft")(job)
        meter_for(checked, trainer.model, checked.arguments).attach(trainer)
        return trainer


def _unless_stored(model: Path) -> dict[str, Any]:
    """Arguments that load in NF4, also where the weights are stored so already."""
    stored = "quantization_config" in json.loads((model / "config.json").read_text())
    options = four_bit_options()
    return {key: value for key, value in options.items() if not (stored and key == "quantization_config")}
