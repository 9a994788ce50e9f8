"""The merged folder against the adapter on its base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastft.errors import ModelError
from fastft.exporters.workbench import MERGED
from fastft.proof.checks import behaviour_checks
from fastft.proof.limits import limits_for, looser
from fastft.proof.reference import Merged, Reference
from fastft.proof.result import MERGE, Check
from fastft.proof.tokenizers import tokenizer_checks
from fastft.proof.weights import WeightReport

_WRONG_SHARE = 1e-3  # values of a tensor that may round otherwise because sums were taken in another order
_LEFT = 0.99  # share of the update that may as well be all of it


def merged_checks(reference: Reference, folder: Path) -> Iterator[Check]:
    """All checks of the folder; where it can't be loaded, that alone."""
    if isinstance(reference.merged, ModelError):
        yield Check("loads", "no", "yes", False, reference.merged.message)
        return
    merged = reference.merged
    yield Check("loads", "yes", "yes", True)
    yield from weight_checks(merged.weights)
    yield from tokenizer_checks(reference, folder)
    limits = limits_for(MERGED.name, reference_dtype=reference.trained.dtype)
    yield from behaviour_checks(
        reference.probes, reference.tokenizer, reference.trained, merged.measured, merged.comparison, limits
    )


def merge_check(reference: Reference, merged: Merged, kind: str) -> Check:
    """What an export of the type `kind` was made from, against the trained model, with the looser of their limits.

    The export itself is compared with the merged model, and must not pass for a merge that lost what was trained.
    """
    dtype = reference.trained.dtype
    limits = looser(limits_for(MERGED.name, reference_dtype=dtype), limits_for(kind, reference_dtype=dtype))
    compared = (reference.probes, reference.tokenizer, reference.trained, merged.measured, merged.comparison, limits)
    failed = [check for check in behaviour_checks(*compared) if not check.passed]
    return Check(
        MERGE,
        f"{merged.comparison.kl_mean:.2g} nats (mean KL divergence) from what was trained",
        f"as in {kind}",
        not failed,
        str(failed[0]) if failed else "",
        "" if merged.is_export else _what_is_left(merged.weights),
    )


def weight_checks(weights: WeightReport) -> Iterator[Check]:
    right = weights.worst_share <= _WRONG_SHARE and not weights.absent
    yield Check(
        "weights changed",
        f"{len(weights.changed)} of {weights.compared} tensors differ from the base",
        "at least 1",
        bool(weights.changed) or not weights.update,
        f"first {weights.changed[0]}" if weights.changed else "the folder holds the base model: the merge did nothing",
        _what_is_left(weights) if right else "",
    )
    detail = f"the folder lacks {weights.absent[0]}" if weights.absent else weights.worst
    unnamed = f"; not compared, as no file names them: {weights.unnamed}" if weights.unnamed else ""
    yield Check(
        "weights merged",
        f"{weights.worst_share:.2%} of a tensor's values are not base + adapter{unnamed}",
        f"{_WRONG_SHARE:.1%}",
        right,
        "" if right else detail,
    )


def _what_is_left(weights: WeightReport) -> str:
    """Of what was trained, in weights that were merged as they should be; nothing to say where all of it is."""
    if not weights.update:
        return "the training changed no weight: what was exported is the base itself (was every learning rate 0?)"
    if weights.share_kept >= _LEFT:
        return ""
    more = "; export.dtype: float16 (--dtype float16) keeps three bits more" if weights.dtype == "bfloat16" else ""
    return (
        f"rounding to {weights.dtype} left {weights.share_kept:.0%} of what was trained, which is little beside the "
        f"weights, as after few steps or at a low learning rate{more}"
    )
