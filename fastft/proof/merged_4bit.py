"""The model in bitsandbytes' 4 bits, loaded from the disk, against the merged model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastft.errors import ModelError
from fastft.inference import TextModel
from fastft.proof.checks import behaviour_checks
from fastft.proof.limits import limits_for
from fastft.proof.measure import measure_against
from fastft.proof.merged import merge_check
from fastft.proof.reference import Reference, Transformers
from fastft.proof.result import Check
from fastft.proof.scores import Comparison
from fastft.proof.tokenizers import tokenizer_checks


def merged_4bit_checks(reference: Reference, folder: Path) -> Iterator[Check]:
    """All checks of `folder`; it stops by its own generation config. Raises ModelError if it can't be loaded."""
    if isinstance(reference.merged, ModelError):
        raise reference.merged
    yield merge_check(reference, reference.merged, "merged_4bit")
    merged = reference.merged.measured
    limits = limits_for("merged_4bit", reference_dtype=merged.dtype)
    yield from _storage_check(folder)
    model = TextModel.load(folder)
    try:
        yield Check("loads", "yes", "yes", True)
        yield from tokenizer_checks(reference, folder)
        comparison = Comparison(tie=limits.tie)
        found = measure_against(merged, Transformers(model, None), reference.probes, comparison, dtype=model.dtype)
    finally:
        model.close()
    yield from behaviour_checks(reference.probes, reference.tokenizer, merged, found, comparison, limits)


def _storage_check(folder: Path) -> Iterator[Check]:
    """That weights are in 4 bits at all: a model whose layers are all too small for it would be a copy in 16."""
    from fastft.exporters.base_model import FourBitWeights, open_weights

    weights = open_weights(folder)
    count = len(weights.quantized) if isinstance(weights, FourBitWeights) else 0
    yield Check("4-bit weights", f"{count} of {len(weights.specs)} tensors", "at least 1", count > 0)
