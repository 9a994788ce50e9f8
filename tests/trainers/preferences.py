"""Small preference data on the packaged model, and jobs of it, for the tests of the methods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastft.data.conversation import IGNORE, Example
from fastft.data.formats import Kind
from fastft.data.prepare import PreparedData, prepare_data
from fastft.data.tokenizer import ChatTokenizer
from fastft.model import load_model
from fastft.model_files import resolve_model
from fastft.recipe.schema import DataSection, LoraSection, ModelSection
from fastft.trainers.method import Job

_MODEL = ("load_in_4bit", "load_in_16bit", "full_finetuning", "dtype")
ARGUMENTS = {
    "max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1, "max_length": 64,
    "optim": "adamw_torch", "seed": 7, "save_strategy": "no",
}  # fmt: skip


def pair_rows(count: int = 12) -> list[dict[str, Any]]:
    return [{"prompt": f"Say {n}.", "chosen": f"It is {n}.", "rejected": "No" * (1 + n % 3)} for n in range(count)]


def judged_rows(count: int = 12) -> list[dict[str, Any]]:
    """Sorted by label, as sets often are."""
    labels = [n < count / 2 for n in range(count)]
    answers = [f"It is {n}." if good else f"No, not {n}." for n, good in enumerate(labels)]
    return [
        {"prompt": f"Say {n}.", "completion": answer, "label": good}
        for n, (answer, good) in enumerate(zip(answers, labels, strict=True))
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _prepared(path: Path, kind: Kind) -> PreparedData:
    tokenizer = ChatTokenizer.load(resolve_model("fastft/tiny", weights=False))
    return prepare_data(DataSection.model_validate({"path": str(path)}), tokenizer, max_length=64, seed=0, kind=kind)


def pair_data(folder: Path) -> PreparedData:
    return _prepared(write(folder / "pairs.jsonl", pair_rows()), "preference")


def judged_data(folder: Path) -> PreparedData:
    return _prepared(write(folder / "judged.jsonl", judged_rows()), "unpaired")


def job_on_tiny(data: PreparedData, folder: Path, **options: Any) -> Job:
    """`options` are keys of the model section, or training arguments. Without a way of loading it is 32 bits."""
    model = {key: options.pop(key) for key in _MODEL if key in options} or {"load_in_16bit": True, "dtype": "float32"}
    section = ModelSection.model_validate({"model_name": "fastft/tiny", "max_seq_length": 64, **model})
    lora = LoraSection.model_validate({"r": 8, "use_gradient_checkpointing": False})
    loaded, tokenizer = load_model(section, None if section.full_finetuning else lora)
    in_32 = {} if section.load_in_4bit else {"bf16": False}
    return Job(loaded, tokenizer, data, {**ARGUMENTS, **in_32, **options}, folder / "checkpoints")


def answers_of(example: Example) -> tuple[list[int], list[int]]:
    """(ids of the prompt, ids of the answer)"""
    start = example.labels.count(IGNORE)
    return example.input_ids[:start], example.input_ids[start:]
