"""What exports are compared with: the trained model (adapter on 16-bit base) and its merge. Computed once a process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import ModelError
from fastft.exporters.base_model import open_weights
from fastft.exporters.workbench import MERGED
from fastft.inference import Generation, TextModel
from fastft.model_files import read_text_config
from fastft.proof.limits import limits_for
from fastft.proof.measure import Measured, as_reference, measure_against, measure_reference
from fastft.proof.probes import MAX_TOKENS, Probe, load_probes
from fastft.proof.scores import Comparison
from fastft.proof.weights import WeightReport, compare_weights, rounding_report
from fastft.run_files import read_export

if TYPE_CHECKING:
    import numpy as np

    from fastft.exporters.source import Trained
    from fastft.model_loading import DtypeName

_MORE = 256  # positions beyond a prompt, of a model that does not say how many it has


@dataclass(frozen=True, slots=True)
class Merged:
    """The merged folder, or PEFT's merge rounded to 16 bits where no merged folder was kept.

    `comparison` is with the trained model; `weights` tells what of it the 16 bits hold.
    """

    name: str
    measured: Measured
    comparison: Comparison
    weights: WeightReport
    is_export: bool  # with a verification of its own


@dataclass(frozen=True, slots=True)
class Reference:
    """What was measured on the trained side of a run; where the merged folder can't be loaded, the reason."""

    tokenizer: ChatTokenizer
    probes: list[Probe]
    base: Path
    trained: Measured
    merged: Merged | ModelError

    @property
    def chats(self) -> list[Probe]:
        """The probes that a chat template writes; held-out texts are none."""
        return [probe for probe in self.probes if probe.messages]


def reference_for(trained: Trained, samples: int, dtype: DtypeName | None = None) -> Reference:
    """The reference, its merged model in `dtype`, by default that of the merged export (or of any).

    The last one is kept, and used again unless a file that it stands on has changed.
    """
    dtype = dtype or _merged_dtype(trained.exports)
    key = (str(trained), samples, dtype, _signature(trained))
    if key not in _kept:
        _kept.clear()
        _kept[key] = _reference(trained, samples, dtype)
    return _kept[key]


_kept: dict[tuple[Any, ...], Reference] = {}


def _reference(trained: Trained, samples: int, dtype: DtypeName) -> Reference:
    base = trained.source.base().folder
    own = trained.source.folder
    tokenizer = ChatTokenizer.load(own if (own / "tokenizer_config.json").is_file() else base)
    positions = read_text_config(base).get("max_position_embeddings") or MAX_TOKENS + _MORE
    probes = load_probes(trained.heldout, tokenizer, samples, positions)
    measured, merged = _measure_trained(trained, base, probes, tokenizer, dtype)
    if isinstance(merged, WeightReport):
        merged = _measure_folder(trained.exports / MERGED.name, probes, tokenizer, measured, merged)
    return Reference(tokenizer, probes, base, measured, merged)


def _signature(trained: Trained) -> tuple[Any, ...]:
    folders = (trained.source.folder, trained.exports / MERGED.name)
    files = [path for folder in folders for path in sorted(folder.glob("*")) if path.name != "verification.json"]
    files += [trained.heldout] if trained.heldout else []
    stats = [(str(path), path.stat()) for path in files if path.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _measure_trained(
    trained: Trained, base: Path, probes: list[Probe], tokenizer: ChatTokenizer, dtype: DtypeName
) -> tuple[Measured, Merged | WeightReport | ModelError]:
    """The trained model, and while it is loaded what of the merged one needs it."""
    model = TextModel.load(base, trained.source.folder if trained.source.is_adapter else None)
    merged_folder = trained.exports / MERGED.name
    stops = trained_stops(tokenizer)
    try:
        measured = measure_reference(Transformers(model, stops), probes, tokenizer, dtype=model.dtype)
        if merged_folder.is_dir() and dtype == _merged_dtype(trained.exports):  # another was made from another merge
            return measured, _weights(model, trained.source.before_training().folder, merged_folder)
        left = rounding_report(model, open_weights(trained.source.before_training().folder), dtype)
        model.merge(dtype)
        comparison = _comparison(measured)
        engine = Transformers(model, stops)
        merged = measure_against(measured, engine, probes, comparison, dtype=model.dtype)
        merged = as_reference(merged, engine, probes, tokenizer)
        return measured, Merged("PEFT's merge of the trained model", merged, comparison, left, is_export=False)
    finally:
        model.close()


def trained_stops(tokenizer: ChatTokenizer) -> list[int]:
    """What ends an answer of the trained model: the template's end of turn, and the tokenizer's end of text."""
    return sorted({tokenizer.end_of_turn_id, tokenizer.eos_token_id} - {None})


def _weights(model: TextModel, base: Path, merged: Path) -> WeightReport | ModelError:
    try:
        return compare_weights(model, open_weights(base), merged)
    except ModelError as error:
        return error


def _measure_folder(
    folder: Path, probes: list[Probe], tokenizer: ChatTokenizer, trained: Measured, weights: WeightReport
) -> Merged | ModelError:
    """The merged folder as it lies on the disk, stopped by what its own generation config says."""
    comparison = _comparison(trained)
    try:
        model = TextModel.load(folder)
    except ModelError as error:
        return error
    engine = Transformers(model, None)
    try:
        measured = measure_against(trained, engine, probes, comparison, dtype=model.dtype)
        measured = as_reference(measured, engine, probes, tokenizer)
    finally:
        model.close()
    return Merged("the merged model", measured, comparison, weights, is_export=True)


def _comparison(trained: Measured) -> Comparison:
    return Comparison(tie=limits_for(MERGED.name, reference_dtype=trained.dtype).tie)


@dataclass(frozen=True, slots=True)
class Transformers:
    """A TextModel as an Engine; `stops` None: those of its own generation config."""

    model: TextModel
    stops: list[int] | None

    @property
    def vocabulary(self) -> int:
        return self.model.vocabulary

    def answers(self, prompts: Sequence[list[int]], limit: int) -> list[Generation]:
        return self.model.generate_batch(prompts, limit, self.stops)

    def logprobs(self, sequences: Sequence[list[int]]) -> Iterator[np.ndarray]:
        return (rows.numpy() for rows in self.model.logprobs_of(sequences))


def _merged_dtype(exports: Path) -> DtypeName:
    """The 16-bit type of the merged export or, where there is none, of any, as their export.json say."""
    for path in (exports / MERGED.name / "export.json", *sorted(exports.glob("*/export.json"))):
        if path.is_file():
            return made_in(path.parent) or "bfloat16"
    return "bfloat16"


def made_in(export: Path) -> DtypeName | None:
    """The 16-bit type that the export in the folder was made in, where its export.json says one of these."""
    dtype = read_export(export)["made_from"].get("dtype") if (export / "export.json").is_file() else None
    return "float16" if dtype == "float16" else "bfloat16" if dtype == "bfloat16" else None
