"""What exports are compared with: the trained model (adapter on 16-bit base) and its merge. Computed once a process."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import ModelError
from fastft.inference import Generation, TextModel
from fastft.proof.limits import limits_for
from fastft.proof.measure import Measured, as_reference, measure_against, measure_reference
from fastft.proof.probes import Probe, load_probes
from fastft.proof.scores import Comparison
from fastft.proof.weights import WeightReport, compare_weights
from fastft.run import Run

if TYPE_CHECKING:
    import numpy as np

    from fastft.model_loading import DtypeName

MERGED = "merged_16bit"


@dataclass(frozen=True, slots=True)
class Merged:
    """The merged folder, or PEFT's merge rounded to 16 bits where no merged folder was kept (`name` says which).

    `comparison` is with the trained model; `weights` is None where there is no folder.
    """

    name: str
    measured: Measured
    comparison: Comparison
    weights: WeightReport | None


@dataclass(frozen=True, slots=True)
class Reference:
    """What was measured on the trained side of a run; where the merged folder can't be loaded, the reason."""

    tokenizer: ChatTokenizer
    probes: list[Probe]
    trained: Measured
    merged: Merged | ModelError


def reference_for(run: Run, samples: int) -> Reference:
    """The reference of a run. The last one is kept, and used again unless a file that it stands on has changed."""
    return _reference(run, samples, _signature(run))


def trained_folder(run: Run) -> Path:
    """The adapter, or the model of a full fine-tune. Raises ModelError if the run has neither."""
    for folder in (run.adapter, run.model_dir):
        if folder.is_dir():
            return folder
    raise ModelError(
        f"The run {run.directory} holds no trained model: neither adapter/ nor model/",
        hint=f"Go on with the training: fastft train --resume {run.directory}",
    )


@functools.lru_cache(maxsize=1)
def _reference(run: Run, samples: int, _signature: tuple[Any, ...]) -> Reference:
    folder = trained_folder(run)
    tokenizer = ChatTokenizer.load(folder)
    probes = load_probes(run.heldout_path, tokenizer, samples)
    trained, merged = _measure_trained(run, probes, tokenizer)
    if isinstance(merged, WeightReport):
        merged = _measure_folder(run.exports / MERGED, probes, tokenizer, trained, merged)
    return Reference(tokenizer, probes, trained, merged)


def _signature(run: Run) -> tuple[Any, ...]:
    folders = (trained_folder(run), run.exports / MERGED)
    files = [path for folder in folders for path in sorted(folder.glob("*")) if path.name != "verification.json"]
    stats = [(str(path), path.stat()) for path in (*files, run.heldout_path, run.manifest_path) if path.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _measure_trained(
    run: Run, probes: list[Probe], tokenizer: ChatTokenizer
) -> tuple[Measured, Merged | WeightReport | ModelError]:
    """The trained model, and while it is loaded what of the merged one needs it."""
    from fastft.exporters.base_model import base_of_run

    base = base_of_run(run.trained_manifest()).folder
    model = TextModel.load(base, run.adapter) if run.adapter.is_dir() else TextModel.load(run.model_dir)
    stops = sorted({tokenizer.end_of_turn_id, tokenizer.eos_token_id} - {None})
    try:
        trained = measure_reference(_Transformers(model, stops), probes, tokenizer, dtype=model.dtype)
        if (run.exports / MERGED).is_dir():
            return trained, _weights(model, base, run.exports / MERGED)
        model.merge(_merged_dtype(run))
        comparison = _comparison(trained)
        engine = _Transformers(model, stops)
        merged = measure_against(trained, engine, probes, comparison, dtype=model.dtype)
        merged = as_reference(merged, engine, probes, tokenizer)
        return trained, Merged("PEFT's merge of the trained model", merged, comparison, None)
    finally:
        model.close()


def _weights(model: TextModel, base: Path, merged: Path) -> WeightReport | ModelError:
    from fastft.exporters.base_model import open_weights

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
    engine = _Transformers(model, None)
    try:
        measured = measure_against(trained, engine, probes, comparison, dtype=model.dtype)
        measured = as_reference(measured, engine, probes, tokenizer)
    finally:
        model.close()
    return Merged("the merged model", measured, comparison, weights)


def _comparison(trained: Measured) -> Comparison:
    return Comparison(tie=limits_for(MERGED, reference_dtype=trained.dtype).tie)


@dataclass(frozen=True, slots=True)
class _Transformers:
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


def _merged_dtype(run: Run) -> DtypeName:
    """The 16-bit type the exports of the run were made in, as their export.json says."""
    for path in sorted(run.exports.glob("*/export.json")):
        return json.loads(path.read_text(encoding="utf-8"))["made_from"]["dtype"]
    return "bfloat16"
