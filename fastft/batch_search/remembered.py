"""Answers of former searches, a small file each below the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.files import write_json

if TYPE_CHECKING:
    from fastft.device import Device
    from fastft.recipe.schema import Recipe

_LOG = logging.getLogger("fastft")
_FORMAT = 1
_PACKAGES = ("fastft", "torch", "unsloth", "transformers", "trl")
# What of the training arguments the speed of a micro-batch follows from.
_ARGUMENTS = (
    "max_length", "optim", "packing", "packing_strategy", "padding_free", "gradient_checkpointing", "bf16", "fp16",
    "train_sampling_strategy", "loss_type", "torch_compile", "precompute_ref_log_probs", "neftune_noise_alpha",
)  # fmt: skip
_found: dict[str, Found] = {}  # of this process, for where nothing can be written


@dataclass(frozen=True, slots=True)
class Found:
    """The fastest micro-batch, and the supervised tokens a second of each that was tried (None: out of memory)."""

    batch: int
    rates: Mapping[int, float | None]

    def reason(self) -> str:
        """For the table of chosen values: the figure, and the nearest other one it stands against."""
        others = {batch: rate for batch, rate in self.rates.items() if batch != self.batch and rate}
        best = f"measured: {self.rates[self.batch] or 0:,.0f} tokens/s"
        if others:
            batch, rate = max(others.items(), key=lambda other: other[1] or 0)
            best += f" against {rate:,.0f} at {batch}"
        failed = [str(batch) for batch, rate in self.rates.items() if rate is None]
        return best + (f", {', '.join(failed)} out of memory" if failed else "") + "; remembered for this device"


def key_of(recipe: Recipe, arguments: Mapping[str, Any], device: Device) -> str:
    """A digest of all that the answer follows from."""
    a_step = int(arguments["per_device_train_batch_size"]) * int(arguments["gradient_accumulation_steps"])
    facts = {
        "format": _FORMAT,
        "device": {name: value for name, value in device.as_dict().items() if name != "host_memory"},
        "model": recipe.model.model_dump(mode="json"),
        "lora": recipe.lora.own() if recipe.lora else None,
        "method": recipe.method,
        "data": recipe.data.model_dump(mode="json"),
        "arguments": {name: arguments.get(name) for name in _ARGUMENTS},
        "sequences a step": a_step,
        "versions": {package: version(package) for package in _PACKAGES},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def recall(key: str) -> Found | None:
    """What was found before, None where nothing was. A damaged file is as good as none."""
    if key in _found:
        return _found[key]
    try:
        kept = json.loads((_folder() / f"{key}.json").read_text(encoding="utf-8"))
        rates = {int(batch): None if rate is None else float(rate) for batch, rate in kept["rates"].items()}
        found = Found(int(kept["batch"]), rates)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if found.batch > 0 and found.rates.get(found.batch) else None


def remember(key: str, found: Found) -> None:
    """Keep it for this process and, if a file can be written, for later ones."""
    _found[key] = found
    try:
        _folder().mkdir(parents=True, exist_ok=True)
        write_json(_folder() / f"{key}.json", asdict(found))
    except OSError as error:
        _LOG.warning("the batch that was found can't be kept in %s: %s", _folder(), error)


def _folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "fastft" / "batches"
