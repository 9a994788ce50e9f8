"""The merged folder's tensors against base + adapter, tensor by tensor, without holding a second model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fastft.errors import ModelError
from fastft.model_loading import REBUILD

if TYPE_CHECKING:
    import torch

    from fastft.exporters.base_model import Weights
    from fastft.inference import TextModel


# what transformers calls the experts' weights in one: what their files may call the parts, in order
_FUSED = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}


@dataclass(slots=True)
class WeightReport:
    """Of `compared` tensors, which both the merged folder and the model have, `changed` differ from the base.

    `worst_share` is the largest share, over all tensors, of values that aren't base + adapter's delta, computed in
    float32 and rounded once. It is not exactly 0: sums in another order round otherwise at one value in millions.
    `update` is the sum of squares of what training added to the base, and `kept` the inner product of that with what
    the folder adds to it: where an update is small beside its weight, rounding leaves the base's value.
    """

    compared: int = 0
    changed: list[str] = field(default_factory=list)
    worst_share: float = 0.0
    worst: str = ""  # what differs first in the worst tensor
    absent: list[str] = field(default_factory=list)  # tensors of the model that the folder lacks
    update: float = 0.0
    kept: float = 0.0
    dtype: str = ""  # of the folder's weights
    unnamed: int = 0  # tensors that the base's files lack too: they are called otherwise there, and not compared

    @property
    def share_kept(self) -> float:
        """How much of the update the folder holds; 1 where there is no update."""
        return self.kept / self.update if self.update else 1.0


def compare_weights(trained: TextModel, base: Weights, merged: Path) -> WeightReport:
    """Compare the folder `merged` with `trained` (adapter on base, unmerged, or a whole model) and with `base`.

    Raises ModelError if a file of the folder is no whole safetensors file.
    """
    report = WeightReport()
    stored = _Stored(merged)
    for name, expected in _as_stored(trained.merged_weights(), stored.files):
        if name not in stored.files:
            report.absent += [name] if name in base.specs else []
            report.unnamed += name not in base.specs
            continue
        found = stored.read(name)
        report.compared += 1
        original = base.read(name) if name in base.specs else None
        if original is None or not _equal(found, original):
            report.changed.append(name)
        if original is not None and original.shape == expected.shape == found.shape:
            _note_update(report, expected, found, original)
        _note_difference(report, name, expected, found)
    return report


def rounding_report(trained: TextModel, base: Weights, dtype: str) -> WeightReport:
    """What a merge of `trained` leaves of its update by rounding to `dtype`, where no folder holds one."""
    import torch

    report = WeightReport()
    for name, expected in trained.merged_weights():
        original = base.read(name) if name in base.specs else None
        if original is not None and original.shape == expected.shape:
            _note_update(report, expected, expected.to(getattr(torch, dtype)), original)
    return report


def _as_stored(
    weights: Iterable[tuple[str, torch.Tensor]], files: Mapping[str, Path]
) -> Iterator[tuple[str, torch.Tensor]]:
    """By the names of the files: transformers 5 holds a layer's experts as one, files hold each by itself."""
    for name, tensor in weights:
        experts, _, kind = name.rpartition(".")
        parts = next((parts for parts in _FUSED.get(kind, ()) if f"{experts}.0.{parts[0]}.weight" in files), None)
        if name in files or parts is None:
            yield name, tensor
            continue
        for number, expert in enumerate(tensor):
            for part, value in zip(parts, expert.chunk(len(parts)), strict=True):
                yield f"{experts}.{number}.{part}.weight", value


class _Stored:
    """Tensors of a folder's safetensors files, read one at a time by the safetensors library."""

    def __init__(self, folder: Path) -> None:
        self.files = dict(self._names(folder))

    def _names(self, folder: Path) -> Iterator[tuple[str, Path]]:
        from safetensors import SafetensorError, safe_open

        for path in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="pt") as file:
                    yield from ((name, path) for name in file.keys())  # noqa: SIM118 (safe_open is no mapping)
            except SafetensorError as error:
                raise ModelError(f"{path} is no whole safetensors file: {error}", hint=REBUILD) from error

    def read(self, name: str) -> torch.Tensor:
        from safetensors import safe_open

        with safe_open(self.files[name], framework="pt") as file:
            return file.get_tensor(name)


def _equal(found: torch.Tensor, base: torch.Tensor) -> bool:
    return found.shape == base.shape and bool((found == base.to(found.dtype)).all())


def _note_update(report: WeightReport, expected: torch.Tensor, found: torch.Tensor, base: torch.Tensor) -> None:
    import torch

    report.dtype = str(found.dtype).removeprefix("torch.")
    update, held = (tensor.float() - base.float() for tensor in (expected, found))
    report.update += float(torch.linalg.vector_norm(update)) ** 2
    report.kept += float((update * held).sum())


def _note_difference(report: WeightReport, name: str, expected: torch.Tensor, found: torch.Tensor) -> None:
    if found.shape != expected.shape:
        report.worst_share = 1.0
        report.worst = f"{name} has the shape {list(found.shape)}, the trained model {list(expected.shape)}"
        return
    wrong = found != expected.to(found.dtype)
    share = float(wrong.double().mean())
    if share > report.worst_share:
        place = wrong.nonzero()[0].tolist()
        values = expected[tuple(place)].item(), found[tuple(place)].item()
        report.worst_share = share
        report.worst = f"{name}{place} is {values[1]:.6g}, base + adapter is {values[0]:.6g}"
