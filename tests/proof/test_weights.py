"""Which tensors of the merged folder were compared, and which could not be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from fastft.exporters.base_model import open_weights
from fastft.inference import TextModel
from fastft.proof.merged import weight_checks
from fastft.proof.weights import compare_weights


def test_tensors_that_neither_base_nor_folder_names_are_counted_and_told(tiny: Path) -> None:
    import torch

    base = open_weights(tiny)

    class Model:
        def merged_weights(self) -> Iterator[tuple[str, Any]]:
            yield "model.norm.weight", base.read("model.norm.weight").float()
            yield "called.otherwise.in.files", torch.zeros(2)

    report = compare_weights(cast("TextModel", Model()), base, tiny)
    assert (report.compared, report.unnamed, report.absent) == (1, 1, [])
    _, merged = weight_checks(report)
    assert merged.value.endswith("are not base + adapter; not compared, as no file names them: 1")
