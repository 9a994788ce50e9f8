"""Trainings of a few steps on fastft/tiny, and the trainers behind them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import fastft


def write_chats(path: Path) -> Path:
    with path.open("w") as file:
        for n in range(24):
            turns = [
                {"role": "user", "content": f"Say the number {n}."},
                {"role": "assistant", "content": f"The number is {n}."},
            ]
            file.write(json.dumps({"messages": turns}) + "\n")
    return path


def write_pairs(path: Path) -> Path:
    with path.open("w") as file:
        for n in range(16):
            asked, sides = [{"role": "user", "content": f"Say {n}."}], (f"It is {n}.", "No.")
            chosen, rejected = ([{"role": "assistant", "content": text}] for text in sides)
            file.write(json.dumps({"prompt": asked, "chosen": chosen, "rejected": rejected}) + "\n")
    return path


def recipe_of(data: Path, **sections: Any) -> dict[str, Any]:
    return {
        "model": {"model_name": "fastft/tiny", "max_seq_length": 128, **sections.pop("model", {})},
        "lora": {"use_gradient_checkpointing": False, **sections.pop("lora", {"r": 8})},
        "data": {"path": str(data), "eval_split": 4},
        "training": {"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 5e-3, "logging_steps": 1}
        | sections.pop("training", {}),
        "evaluation": {"samples": 0},
        **sections,
    }


def train(recipe: dict[str, Any], directory: Path, **options: Any) -> fastft.Run:
    return fastft.train(recipe, output_dir=directory, console=Console(file=io.StringIO()), **options)


@contextmanager
def last_trainer() -> Iterator[list[Any]]:
    """The trainers whose results were saved while this was open."""
    from fastft import artifacts

    seen: list[Any] = []
    save = artifacts.save_trained

    def keeping(run: Any, checked: Any, trainer: Any, *rest: Any) -> None:
        seen.append(trainer)
        save(run, checked, trainer, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "save_trained", keeping)
        yield seen
