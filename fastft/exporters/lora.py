"""A PEFT LoRA adapter as changes to the tensors of its base model.

The formulas are PEFT's (`peft/tuners/lora`), computed in fp32 whatever the adapter is stored in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import ExportError
from fastft.exporters.weights import SafetensorsFolder, row_blocks
from fastft.run_files import read_adapter_config

if TYPE_CHECKING:
    import torch

_MOST_RANK = 1 << 20
_PREFIX = "base_model.model."
_RANK_OF_BLOCKS = 256
# (ending of the key in the adapter file, what it is). The rest of the key is the module it belongs to.
_PARTS = (
    (".lora_A.weight", "a"),
    (".lora_B.weight", "b"),
    (".lora_embedding_A", "embedding_a"),
    (".lora_embedding_B", "embedding_b"),
    (".lora_magnitude_vector", "magnitude"),
    (".lora_magnitude_vector.weight", "magnitude"),
)
# What PEFT puts between a wrapped module's name and its tensor's
_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save)\.")
# Settings that change what the stored matrices mean; none is merged by the formulas here.
_UNSUPPORTED = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "lora_bias", "megatron_config",
    "monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config",
)  # fmt: skip
# Initialisations that change the base weights too, so the adapter does not fit the model on disk.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(slots=True)
class Change:
    """What the adapter does to one tensor of the base; names are keys of the adapter file."""

    replacement: str | None = None  # a whole new value: modules_to_save, a trained bias, resized embeddings
    parts: dict[str, str] = field(default_factory=dict)
    scaling: float = 1.0
    transposed: bool = False

    @property
    def keys(self) -> list[str]:
        return [*self.parts.values(), *([self.replacement] if self.replacement else [])]


class Adapter:
    """An adapter folder: `changes` maps the name of a base tensor to what happens to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_config(folder)
        self._weights = SafetensorsFolder([folder / "adapter_model.safetensors"])
        self.changes = self._collect()

    def rows_of(self, change: Change, shape: tuple[int, ...]) -> Iterator[slice]:
        """The blocks of rows in which a tensor of `shape` can be computed with the same bits as at once."""
        if change.parts and (change.transposed or self._is_wide_embedding(change)):
            return iter([slice(0, shape[0])])
        return row_blocks(shape)

    def apply(self, change: Change, rows: slice, base: Callable[[], torch.Tensor]) -> torch.Tensor:
        """`rows` of the merged tensor in fp32 (or of the replacement as stored). `base()` reads those of the base's."""
        start = self._weights.read(change.replacement, rows) if change.replacement else base()
        if not change.parts:
            return start
        merged = start.float()
        merged += self._delta(change, rows)
        return self._with_magnitude(merged, change, rows) if "magnitude" in change.parts else merged

    def read(self, key: str) -> torch.Tensor:
        """A tensor of the adapter's file, as stored."""
        return self._weights.read(key)

    def shape_of(self, change: Change, base_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the merged tensor. Raises ExportError if the LoRA pair has another than what it is added to."""
        shape = self._weights.specs[change.replacement].shape if change.replacement else base_shape
        if change.parts and (found := self._delta_shape(change)) != shape:
            raise ExportError(
                f"{change.keys[0]}: the adapter changes a tensor of shape {found}, the base has {shape}",
                hint="The adapter was trained on another base model.",
            )
        return shape

    def _delta_shape(self, change: Change) -> tuple[int, ...]:
        first, second = self._pair(change)
        inner, outer = (self._weights.specs[key].shape for key in (first, second))
        shape = (outer[0], *inner[1:])
        return shape[::-1] if "embedding_a" in change.parts or change.transposed else shape

    def _is_wide_embedding(self, change: Change) -> bool:
        """Beyond this rank, matrix products of some rows sum in another order than those of all."""
        return "embedding_a" in change.parts and self._weights.specs[self._pair(change)[0]].shape[0] > _RANK_OF_BLOCKS

    def _pair(self, change: Change) -> tuple[str, str]:
        kind = "embedding_" if "embedding_a" in change.parts else ""
        return change.parts[f"{kind}a"], change.parts[f"{kind}b"]

    def same_replacement(self, first: Change, second: Change) -> bool:
        """Whether both changes put exactly the same value in place and do nothing more."""
        import torch

        if first.parts or second.parts or not first.replacement or not second.replacement:
            return False
        return torch.equal(self._weights.read(first.replacement), self._weights.read(second.replacement))

    def _delta(self, change: Change, rows: slice) -> torch.Tensor:
        """scaling·B·A, of it what falls into `rows` of the tensor."""
        first, second = self._pair(change)
        if "embedding_a" in change.parts or change.transposed:
            a, b = self._weights.read(first)[:, rows].float(), self._weights.read(second).float()
            return ((b @ a) * change.scaling).T
        a, b = self._weights.read(first).float(), self._weights.read(second, rows).float()
        return (b @ a).mul_(change.scaling)

    def _with_magnitude(self, merged: torch.Tensor, change: Change, rows: slice) -> torch.Tensor:
        """DoRA: every output direction keeps its trained length, `magnitude / ||W + scaling·B·A||`."""
        import torch

        magnitude = self._weights.read(change.parts["magnitude"]).float().reshape(-1)
        if change.transposed:  # outputs are columns, and all rows are there
            factor = (magnitude / torch.linalg.norm(merged.T, dim=1)).view(-1, 1)
            return (factor * merged.T).T
        return (magnitude[rows] / torch.linalg.norm(merged, dim=1)).view(-1, 1) * merged

    def _collect(self) -> dict[str, Change]:
        changes: dict[str, Change] = {}
        for key in self._weights.specs:
            if not key.startswith(_PREFIX):
                raise self._refused(f"its tensor {key} is none that PEFT writes for a LoRA")
            if ".original_module." in key:
                continue  # the value before training, which PEFT writes beside a resized embedding's new one
            module, part = _split(key.removeprefix(_PREFIX))
            name = f"{module}.weight" if part else _WRAPPERS.sub(".", module)
            change = changes.setdefault(name, Change())
            if part:
                change.parts[part] = key
                change.scaling = self._scaling(module, key)
                change.transposed = bool(self.config.get("fan_in_fan_out"))
            else:
                self._refuse_two_values(change.replacement, key)
                change.replacement = key
        self._check_whole(changes)
        return changes

    def _scaling(self, module: str, key: str) -> float:
        """alpha/r, or alpha/sqrt(r) with rsLoRA, by the patterns PEFT chose rank and alpha with."""
        rank_pattern, alpha_pattern = self.config.get("rank_pattern") or {}, self.config.get("alpha_pattern") or {}
        try:
            rank = _by_pattern(rank_pattern, module, self.config["r"])
            alpha = _by_pattern(alpha_pattern, module, self.config["lora_alpha"])
        except (KeyError, re.error, RecursionError, OverflowError) as error:
            raise self._refused(f"adapter_config.json gives {key} no rank or alpha ({error})") from error
        if not 0 < rank < _MOST_RANK or not abs(alpha) < math.inf or abs(alpha) > _MOST_RANK**2:
            raise self._refused(f"adapter_config.json gives {key} the rank {rank!s:.20} and the alpha {alpha!s:.20}")
        shape = self._weights.specs[key].shape
        if "magnitude" not in key and rank not in shape:
            raise self._refused(f"{key} has the shape {shape}, but adapter_config.json gives it the rank {rank}")
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _refuse_two_values(self, first: str | None, second: str) -> None:
        import torch

        if first and not torch.equal(self._weights.read(first), self._weights.read(second)):
            raise self._refused(f"{first} and {second} are two values for one tensor")

    def _check_whole(self, changes: dict[str, Change]) -> None:
        for name, change in changes.items():
            pairs = set(change.parts) - {"magnitude"}
            if change.parts and pairs not in ({"a", "b"}, {"embedding_a", "embedding_b"}):
                raise self._refused(f"{name} has only {' and '.join(change.keys)} of its LoRA pair")
            if ("magnitude" in change.parts) != bool(change.parts and self.config.get("use_dora")):
                raise self._refused(f"{name} does not fit use_dora={bool(self.config.get('use_dora'))}")
            if "magnitude" in change.parts and "embedding_a" in change.parts:
                raise self._refused(f"{name} is a DoRA on an embedding, which can't be merged here")
        if not any(change.parts for change in changes.values()):
            raise self._refused("it holds no LoRA matrices")

    def _refused(self, reason: str) -> ExportError:
        return ExportError(f"The adapter {self.folder} can't be merged: {reason}")


def read_config(folder: Path) -> dict[str, Any]:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise ExportError(f"{folder} is no PEFT adapter: it lacks {name}")
    config = read_adapter_config(folder, ExportError)
    if config.get("peft_type") != "LORA":
        raise ExportError(f"The adapter {folder} is a {config.get('peft_type')}; only LoRA adapters can be merged")
    used = [key for key in _UNSUPPORTED if config.get(key)]
    if used:
        raise ExportError(f"The adapter {folder} can't be merged: it uses {', '.join(used)}")
    start = str(config.get("init_lora_weights", "")).lower()
    if start.startswith(_CHANGES_BASE):
        raise ExportError(
            f"The adapter {folder} was initialised with {start}, which changes the base weights too: "
            "merged into the model on disk it would be wrong",
            hint="Convert it with PEFT's path_initial_model_for_weight_conversion first.",
        )
    return config


def _split(key: str) -> tuple[str, str | None]:
    for ending, part in _PARTS:
        if key.endswith(ending):
            return key.removesuffix(ending), part
    return key, None


def _by_pattern(pattern: dict[str, Any], module: str, default: Any) -> Any:
    """The value for a module's name, matched as PEFT's `get_pattern_key` does: the first that fits its end."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)
