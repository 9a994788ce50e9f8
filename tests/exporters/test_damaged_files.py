"""Files beside what is exported, damaged: each is one error that names the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fastft.base_identity import BaseIdentity
from fastft.errors import ExportError, FastftError, ModelError, TrainingError
from fastft.exporters.base_model import open_weights
from fastft.exporters.card import model_card
from fastft.exporters.merged import copy_tokenizer
from fastft.exporters.pretokenizer import read_tokenizer_json
from fastft.exporters.source import Source, Trained
from fastft.lora_start import relate_to_base

_PROOF = {"passed": True, "reference": "the model", "checks": [{"name": "a|b", "value": "1", "threshold": "2",
                                                                "passed": True}]}  # fmt: skip


def _exported(run: Path) -> tuple[Trained, Path]:
    """(what a card tells of, the export's folder), the least that a card is made from."""
    export = run / "exports" / "adapter"
    export.mkdir(parents=True)
    (export / "verification.json").write_text(json.dumps(_PROOF))
    part = dict.fromkeys(
        ("rows", "examples", "tokens", "supervised", "truncated_examples", "truncated_tokens", "truncated_supervised"),
        1,
    )
    part |= {"lengths": {}, "histogram": {}}
    tally = {"count": 0, "places": [], "detail": ""}
    data = {"source": "x", "format": "text", "rows": 1, "lost_rows": 0, "train": part, "evaluation": part,
            "dropped": {}, "notes": {}, "duplicates": 0, "leaked": tally, "fingerprint": "0", "examples_sha256": "0",
            "template_sha256": "0", "max_length": 9, "warnings": [], "broken": []}  # fmt: skip
    measured = {"before": {"loss": 2.0}, "after": {"loss": 1.0}}
    (run / "manifest.json").write_text(json.dumps({"evaluation": measured, "data": data, "versions": {"fastft": "1"}}))
    (run / "recipe.yaml").write_text("method: sft\ndata: {path: a/b}\n")
    source = Source(run / "adapter", True, "fastft/tiny", None, "run", BaseIdentity("fastft/tiny"))
    return Trained(source, run / "exports"), export


def test_a_card_is_made_of_manifest_recipe_and_proof(tmp_path: Path) -> None:
    trained, export = _exported(tmp_path)
    card = model_card("adapter", "me/it", [export], trained, tmp_path / "manifest.json")
    assert "| loss | 2 | 1 |" in card
    assert "| a\\|b | 1 | 2 | ok |" in card
    assert "x (text): 1 row, 1 to train on, 1 held out; 1 token, 100% supervised." in card


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("manifest.json", "{", "not valid JSON"),
        (
            "manifest.json",
            '{"evaluation": {"before": {}, "after": {"loss": "x"}}, "data": {}}',
            "evaluation.after.loss",
        ),
        ("manifest.json", '{"evaluation": {"before": {}, "after": {}}, "data": {"rows": 1}}', "its data is not as"),
        ("recipe.yaml", "a: [", "not valid YAML"),
        ("recipe.yaml", "data: x\n", "data: Input should be a valid dictionary"),
        ("recipe.yaml", "method: 1\n", "method: Input should be a valid string"),
        ("exports/adapter/verification.json", '{"passed": true}', "it lacks reference"),
        ("exports/adapter/verification.json", "[" * 100_000, "recursion"),
    ],
)
def test_what_a_card_cannot_read_is_named(tmp_path: Path, name: str, text: str, found: str) -> None:
    trained, export = _exported(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ExportError) as caught:
        model_card("adapter", "me/it", [export], trained, tmp_path / "manifest.json")
    assert caught.value.message.startswith(f"{tmp_path / name} can't be read: ")
    assert found in caught.value.message


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("model", {"vocab": {}}, "it lacks model.type"),
        ("pre_tokenizer", [], "pre_tokenizer: Input should be a valid dictionary"),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{}]}, "it lacks pre_tokenizer.pretokenizers.0.type"),
        ("added_tokens", [{"id": "1"}], "added_tokens.0.id"),
    ],
)
def test_a_tokenizer_of_other_types_is_named(tmp_path: Path, key: str, value: Any, found: str) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE"}, key: value}))
    with pytest.raises(ExportError) as caught:
        read_tokenizer_json(tmp_path)
    assert caught.value.message.startswith(f"{tmp_path / 'tokenizer.json'} can't be read: ")
    assert found in caught.value.message


@pytest.mark.parametrize(
    ("name", "text"), [("tokenizer_config.json", "[]"), ("tokenizer_config.json", "{"), ("tokenizer.json", "{}")]
)
def test_a_tokenizer_that_is_copied_is_named_where_it_was(tiny: Path, tmp_path: Path, name: str, text: str) -> None:
    folder, out = tmp_path / "adapter", tmp_path / "out"
    out.mkdir()
    shutil.copytree(tiny, folder)
    (folder / name).write_text(text)
    with pytest.raises(ModelError, match=str(folder / name)):
        copy_tokenizer(folder, tiny, out)


def test_a_tokenizer_class_that_does_not_exist_is_told(tiny: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "adapter", tmp_path / "out"
    out.mkdir()
    shutil.copytree(tiny, folder)
    shutil.copy(tiny / "config.json", out)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "Nonesuch", "auto_map": []}))
    with pytest.raises(ExportError, match=f"transformers can't load the tokenizer in {folder}: "):
        copy_tokenizer(folder, tiny, out)


@pytest.mark.parametrize("text", ["", "[]", '{"dtype": "int3", "shape": [2]}', '{"dtype": "float32", "shape": [-2]}'])
def test_the_state_of_4_bit_values_is_checked(tmp_path: Path, text: str) -> None:
    import torch
    from safetensors.torch import save_file

    state = torch.tensor(list(text.encode()), dtype=torch.uint8)
    key = "a.weight.quant_state.bitsandbytes__nf4"
    save_file({"a.weight": torch.zeros(4, 1, dtype=torch.uint8), key: state}, tmp_path / "model.safetensors")
    with pytest.raises(ExportError, match=key):
        open_weights(tmp_path)


def _write_lora(folder: Path, **matrices: Any) -> Path:
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(matrices, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4, "use_rslora": False}))
    return folder


def _remove(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def _cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _other(folder: Path) -> None:
    import torch

    shutil.rmtree(folder)
    _write_lora(folder, **{"x.lora_A.weight": torch.ones(2, 3)})


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (_remove, "is no file, so what the LoRA started with is lost"),
        (_cut, "can't be read: "),
        (_other, "found (2, 3) as x.lora_A.weight; expected a matrix of the shape (2, 4)"),
    ],
)
def test_what_a_lora_started_with_is_named_where_it_is_damaged(tmp_path: Path, damage: Any, found: str) -> None:
    import torch

    matrices = {"x.lora_A.weight": torch.ones(2, 4), "x.lora_B.weight": torch.ones(3, 2)}
    adapter, initial = (_write_lora(tmp_path / name, **matrices) for name in ("adapter", "initial"))
    damage(initial)
    with pytest.raises(TrainingError) as caught:
        relate_to_base(adapter, initial)
    assert str(initial / "adapter_model.safetensors") in caught.value.message
    assert found in caught.value.message
    assert isinstance(caught.value, FastftError)
