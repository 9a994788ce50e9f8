"""The exported adapter, loaded by PEFT on its base, against the trained one: nothing may differ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastft.inference import TextModel
from fastft.proof.checks import behaviour_checks
from fastft.proof.limits import limits_for
from fastft.proof.measure import measure_against
from fastft.proof.reference import Reference, Transformers, trained_stops
from fastft.proof.result import Check
from fastft.proof.scores import Comparison
from fastft.proof.tokenizers import tokenizer_checks


def adapter_checks(reference: Reference, folder: Path) -> Iterator[Check]:
    """All checks of the adapter in `folder`. Raises ModelError if PEFT can't put it on the base."""
    limits = limits_for("adapter", reference_dtype="float32")
    model = TextModel.load(reference.base, folder)
    try:
        yield Check("loads", "yes", "yes", True)
        yield from tokenizer_checks(reference, folder)
        comparison = Comparison(tie=limits.tie)
        engine = Transformers(model, trained_stops(reference.tokenizer))
        found = measure_against(reference.trained, engine, reference.probes, comparison, dtype=model.dtype)
    finally:
        model.close()
    yield from behaviour_checks(reference.probes, reference.tokenizer, reference.trained, found, comparison, limits)
