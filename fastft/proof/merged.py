"""The merged folder against the adapter on its base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastft.errors import ModelError
from fastft.exporters.workbench import MERGED
from fastft.proof.checks import behaviour_checks
from fastft.proof.limits import limits_for
from fastft.proof.reference import Reference
from fastft.proof.result import Check
from fastft.proof.tokenizers import tokenizer_checks
from fastft.proof.weights import WeightReport

_WRONG_SHARE = 1e-3  # values of a tensor that may round otherwise because sums were taken in another order


def merged_checks(reference: Reference, folder: Path) -> Iterator[Check]:
    """All checks of the folder; where it can't be loaded, that alone."""
    if isinstance(reference.merged, ModelError):
        yield Check("loads", "no", "yes", False, reference.merged.message)
        return
    merged = reference.merged
    assert merged.weights is not None  # there is a folder
    yield Check("loads", "yes", "yes", True)
    yield from weight_checks(merged.weights)
    yield from tokenizer_checks(reference, folder)
    limits = limits_for(MERGED.name, reference_dtype=reference.trained.dtype)
    yield from behaviour_checks(
        reference.probes, reference.tokenizer, reference.trained, merged.measured, merged.comparison, limits
    )


def weight_checks(weights: WeightReport) -> Iterator[Check]:
    changed = bool(weights.changed)
    yield Check(
        "weights changed",
        f"{len(weights.changed)} of {weights.compared} tensors differ from the base",
        "at least 1",
        changed,
        f"first {weights.changed[0]}" if changed else "the folder holds the base model: the merge did nothing",
    )
    right = weights.worst_share <= _WRONG_SHARE and not weights.absent
    detail = f"the folder lacks {weights.absent[0]}" if weights.absent else weights.worst
    unnamed = f"; not compared, as no file names them: {weights.unnamed}" if weights.unnamed else ""
    yield Check(
        "weights merged",
        f"{weights.worst_share:.2%} of a tensor's values are not base + adapter{unnamed}",
        f"{_WRONG_SHARE:.1%}",
        right,
        "" if right else detail,
    )
