"""The whole way for twelve families: 5 steps in 4 bits, merge, GGUF as f16 and q4_k_m, and the proof of each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import fastft
from fastft.errors import ExportError, RecipeError
from fastft.exporters.gguf import ignored_setting
from tests.exporters.architectures import FAMILIES, Family, build, recipe, write_rows
from tests.exporters.vocabularies import Specials, byte_level

EXPORTS = {"merged_16bit", "gguf-f16", "gguf-q4_k_m"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


def _checks(run: Path) -> dict[str, dict[str, Any]]:
    """The checks of each export by its name."""
    return {file.parent.name: json.loads(file.read_text()) for file in run.glob("exports/*/verification.json")}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_five_steps_in_4_bits_then_every_export_is_proven(family: Family, rows: Path, tmp_path: Path) -> None:
    model = build(family, tmp_path / "model")
    run = fastft.train(recipe(model, rows), output_dir=tmp_path / "run", console=Console(quiet=True))
    found = _checks(run.directory)
    assert set(found) == EXPORTS
    assert [name for name, verification in found.items() if not verification["passed"]] == []
    for verification in found.values():  # on answers that end, so that something was proven
        values = {check["name"]: check["value"] for check in verification["checks"]}
        assert not values["stops"].startswith("0 of")


@pytest.mark.slow
def test_a_tokenizer_llama_cpp_cannot_follow_is_refused_before_training(rows: Path, tmp_path: Path) -> None:
    """A rule of its own, such as no model has."""

    def vocabulary(folder: Path, texts: list[str]) -> None:
        byte_level(folder, texts, Specials("<|im_end|>", more=("<|im_start|>",)), split=r"\w+|\W+")

    family = Family("novel", "Llama", vocabulary, next(f.template for f in FAMILIES if f.name == "smollm3"))
    model = build(family, tmp_path / "model", steps=1)
    with pytest.raises(RecipeError, match=r"its rule .* is none of llama.cpp's"):
        fastft.check(recipe(model, rows))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "modules"),
    [("llama-3", ["embed_tokens"]), ("falcon-3", ["embed_tokens", "lm_head"])],
    ids=["tied", "own head"],
)
def test_embeddings_trained_whole_go_all_the_way(name: str, modules: list[str], rows: Path, tmp_path: Path) -> None:
    """They train in float32 beside layers in 16 bits; tied ones part from the head."""
    family = next(family for family in FAMILIES if family.name == name)
    model = build(family, tmp_path / "model")
    wanted = recipe(model, rows, modules_to_save=modules)
    wanted["export"]["quantization_method"] = "f16"
    run = fastft.train(wanted, output_dir=tmp_path / "run", console=Console(quiet=True))
    found = _checks(run.directory)
    assert {export: verification["passed"] for export, verification in found.items()} == {
        "merged_16bit": True,
        "gguf-f16": True,
    }


@pytest.mark.slow
def test_a_config_the_converter_cannot_read_is_refused_before_training(rows: Path, tmp_path: Path) -> None:
    """transformers' Cohere2Config has no rotary_pct, which the converter needs; the Hub's models have it."""
    qwen = next(family for family in FAMILIES if family.name == "qwen2")
    model = build(replace(qwen, model="Cohere2", options={"sliding_window": 64}), tmp_path / "model", steps=1)
    with pytest.raises(ExportError, match="it needs 'rotary_pct' in its config"):
        fastft.train(recipe(model, rows), output_dir=tmp_path / "run", console=Console(quiet=True))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(("value", "refused"), [(True, False), (False, True), (None, True)])
def test_a_setting_that_llama_cpp_does_not_look_at_is_refused(value: bool | None, refused: bool) -> None:
    config = {"architectures": ["Qwen3MoeForCausalLM"], **({} if value is None else {"norm_topk_prob": value})}
    assert bool(ignored_setting(config)) is refused
