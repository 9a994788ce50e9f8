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


UPDATED = "model.layers.0.self_attn.q_proj.weight"


def _checks(base_folder: Path, folder: Path, by: float) -> tuple[Any, Any]:
    """weight_checks of the folder against a model whose UPDATED is the base's plus `by`."""
    base = open_weights(base_folder)

    class Model:
        def merged_weights(self) -> Iterator[tuple[str, Any]]:
            yield UPDATED, base.read(UPDATED).float() + by

    changed, merged = weight_checks(compare_weights(cast("TextModel", Model()), base, folder))
    return changed, merged


def _merge(base: Path, folder: Path, by: float, dtype: str) -> Path:
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    tensor = open_weights(base).read(UPDATED).float() + by
    save_file({UPDATED: tensor.to(getattr(torch, dtype))}, folder / "model.safetensors")
    return folder


def test_what_rounding_left_of_a_small_update_is_told(tiny: Path, tmp_path: Path) -> None:
    """bfloat16 has 8 bits: of an update that is little beside its weights, it keeps what happens to reach a step."""
    changed, merged = _checks(tiny, _merge(tiny, tmp_path / "bf16", 2e-5, "bfloat16"), 2e-5)
    assert changed.passed
    assert merged.passed
    assert "rounding to bfloat16 left" in changed.note
    assert "--dtype float16" in changed.note
    assert 1 <= int(changed.note.partition("%")[0].rpartition(" ")[2]) <= 98
    changed, _ = _checks(tiny, _merge(tiny, tmp_path / "large", 1e-2, "bfloat16"), 1e-2)
    assert (changed.passed, changed.note) == (True, "")


def test_a_training_that_changed_nothing_is_exported_as_it_is_and_told(tiny: Path, tmp_path: Path) -> None:
    changed, _ = _checks(tiny, _merge(tiny, tmp_path / "same", 0.0, "bfloat16"), 0.0)
    assert changed.passed
    assert "the training changed no weight" in changed.note


def test_a_merge_that_did_nothing_is_no_matter_of_rounding(tiny: Path, tmp_path: Path) -> None:
    changed, merged = _checks(tiny, _merge(tiny, tmp_path / "base", 0.0, "bfloat16"), 1e-2)
    assert not changed.passed
    assert not merged.passed
    assert changed.note == ""
