"""The LoRA as a GGUF file, run in llama.cpp on a GGUF of its base, against the adapter on its base."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path

from fastft.errors import ModelError
from fastft.exporters.base_model import open_weights
from fastft.exporters.process import STAGING
from fastft.llamacpp import GGUFModel
from fastft.proof.checks import behaviour_checks
from fastft.proof.gguf import LlamaCpp
from fastft.proof.limits import limits_for
from fastft.proof.measure import answer_limit, measure_against
from fastft.proof.probes import MAX_TOKENS
from fastft.proof.reference import Reference
from fastft.proof.result import Check
from fastft.proof.scores import Comparison


def gguf_lora_checks(reference: Reference, folder: Path) -> Iterator[Check]:
    """All checks of the adapter file in `folder`; the base is converted for it, beside the export, and dropped."""
    from fastft.exporters.gguf_lora import FILE

    limits = limits_for("gguf_lora", reference_dtype=reference.trained.dtype)
    with tempfile.TemporaryDirectory(prefix=f"{STAGING}{os.getpid()}-", dir=folder.parent) as scratch:
        base = _base_gguf(reference, Path(scratch))
        context = MAX_TOKENS + answer_limit(reference.probes)
        try:
            with GGUFModel(base, n_ctx=context, lora=folder / FILE, exact=True) as model:
                comparison = Comparison(tie=limits.tie)
                engine = LlamaCpp(model)
                found = measure_against(reference.trained, engine, reference.probes, comparison, dtype="gguf_lora")
        except ModelError as error:
            yield Check("loads", "no", "yes", False, error.message)
            return
    yield Check("loads", "yes", "yes", True)
    yield from behaviour_checks(reference.probes, reference.tokenizer, reference.trained, found, comparison, limits)


def _base_gguf(reference: Reference, scratch: Path) -> Path:
    """The base, with the tokenizer that was trained with, as a GGUF file of its own type."""
    from fastft.exporters.gguf import convert
    from fastft.exporters.merged import copy_model

    copy_model(reference.base, scratch / "base", stored_dtype(reference.base), tokenizer=reference.tokenizer.folder)
    convert(scratch / "base", scratch / "base.gguf", name="base")
    return scratch / "base.gguf"


def stored_dtype(base: Path) -> str:
    """The type of most of the base's weights, by their files: what config.json calls it depends on its age."""
    values: Counter[str] = Counter()
    for spec in open_weights(base).specs.values():
        values[spec.dtype] += prod(spec.shape)
    return {"BF16": "bfloat16", "F16": "float16"}.get(values.most_common(1)[0][0], "float32")
