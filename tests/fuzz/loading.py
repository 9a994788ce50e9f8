"""Model and adapter folders with a spoiled file, loaded by transformers and PEFT as chat, eval and verify do."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

from tests.fuzz.corpora import TINY, make_adapter, spoil_file

MEMORY = 8 << 30
_READ = ("config.json", "config.json", "generation_config.json", "model.safetensors")
_OF_ADAPTER = ("adapter_config.json", "adapter_config.json", "adapter_model.safetensors", "generation_config.json")


def prepare(folder: Path) -> dict[str, Path]:
    """A model folder and an adapter on it, loaded once."""
    shutil.copytree(TINY, folder / "model")
    made = {"model": folder / "model", "adapter": make_adapter(folder / "adapter")}
    _load(made["model"], made["adapter"])
    return made


def case(state: dict[str, Path], random: Random, folder: Path, names: list[str]) -> None:
    model, adapter = folder / "model", folder / "adapter"
    shutil.copytree(state["model"], model)
    shutil.copytree(state["adapter"], adapter)
    names.append(str(folder))
    on = random.random() < 0.5
    spoil_file(adapter / random.choice(_OF_ADAPTER) if on else model / random.choice(_READ), random)
    _load(model, adapter if on else None)


def _load(model: Path, adapter: Path | None) -> None:
    from fastft.inference import TextModel

    TextModel.load(model, adapter, dtype="float32").logprobs([5, 6, 7])
