"""Continued pretraining: every token of every text is learned once, whatever its length and the sequence's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import fastft
from fastft.data.packing import wrap_lengths
from fastft.errors import ModelError, RecipeError
from tests.short_runs import last_trainer, train

TEXTS = [
    "A short text.",
    "The bell of Marsh rings twice a day. " * 12,
    "One more.\n\nIn two parts.",
    "Boats, lamps, bells and boxes are sold here. " * 9,
]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, *TEXTS[::-1]]))
    return path


def recipe_of(texts: Path, **sections: Any) -> dict[str, Any]:
    return {
        "model": {"model_name": "fastft/tiny", "max_seq_length": 48, "load_in_16bit": True},
        "lora": {"r": 8, "use_gradient_checkpointing": False},
        "data": {"path": str(texts)},
        "method": "pretrain",
        "training": {"max_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1},
        **sections,
    }


def base_model(tiny: Path, folder: Path) -> Path:
    """The packaged model as a base model: without a chat template."""
    shutil.copytree(tiny, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_texts_are_whole_and_each_ends_with_the_end_of_text(texts: Path) -> None:
    checked = fastft.check(recipe_of(texts))
    tokenizer = checked.tokenizer
    ids = [i for example in checked.data.train for i in example.input_ids]
    framed = [[*tokenizer.document_start, *tokenizer.encode(text), tokenizer.eos_token_id] for text in TEXTS]
    assert ids == [i for text in [*framed, *framed[::-1]] for i in text]
    assert max(map(len, framed)) > 2 * 48
    assert checked.arguments["packing_strategy"] == "wrapped"
    assert checked.plan.sequences == -(-len(ids) // 48)
    assert checked.data.audit.train.supervised >= len(ids) - len(checked.data.train)


def test_without_packing_a_long_text_becomes_several_sequences(texts: Path) -> None:
    recipe = recipe_of(texts)
    recipe["training"]["packing"] = False
    checked = fastft.check(recipe)
    assert "packing_strategy" not in checked.arguments
    assert max(len(example.input_ids) for example in checked.data.train) == 48
    assert len(checked.data.train) > 8


def test_wrapped_sequences_are_counted_as_trl_makes_them() -> None:
    packs = wrap_lengths([10, 3, 8], 6)
    assert packs.lengths == (6, 6, 6, 3)
    assert packs.documents == ((0,), (0, 1), (1, 2), (2,))
    assert wrap_lengths([1] * 1001, 600).lengths == (600, 400, 1)  # a batch of datasets.map begins anew


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data.truncation", "keep_end", "split_turns, or no truncation"),
        ("data.train_on", "last", "all, or no train_on"),
        ("data.format", "messages", "auto or text"),
        ("evaluation.samples", "5", "no answers to compare"),
    ],
)
def test_what_texts_have_no_use_for_is_told(key: str, value: str, said: str, texts: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        fastft.load_recipe(recipe_of(texts, data={"path": str(texts), "eval_split": 2}), [f"{key}={value}"])
    assert said in str(caught.value.faults)


def test_a_resolved_recipe_reads_back(texts: Path, tmp_path: Path) -> None:
    recipe = fastft.load_recipe(recipe_of(texts, data={"path": str(texts), "eval_split": 2}))
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert fastft.load_recipe(tmp_path / "again.yaml") == recipe


def test_a_base_model_needs_no_template_for_texts_alone(texts: Path, tiny: Path, tmp_path: Path) -> None:
    model = {"model_name": str(base_model(tiny, tmp_path / "base")), "max_seq_length": 48}
    assert fastft.check(recipe_of(texts, model=model)).plan.steps == 2
    with pytest.raises(ModelError, match="no chat template"):
        fastft.check(recipe_of(texts, model=model, method="sft"))


@pytest.mark.slow
def test_what_is_fed_is_every_token_in_order(texts: Path, tiny: Path, tmp_path: Path) -> None:
    """On a base model without a template: nothing is lost between documents and packs, and the run is whole."""
    model = {"model_name": str(base_model(tiny, tmp_path / "base")), "max_seq_length": 48, "load_in_16bit": True}
    recipe = recipe_of(texts, model=model, data={"path": str(texts), "eval_split": 2}, evaluation={"prompts": ["Hi"]})
    with last_trainer() as trainers:
        run = train(recipe, tmp_path / "run")
    checked = fastft.check(recipe)
    fed = trainers[0].train_dataset
    assert [i for row in fed for i in row["input_ids"]] == [i for e in checked.data.train for i in e.input_ids]
    assert {len(row["input_ids"]) for row in fed.select(range(len(fed) - 1))} == {48}
    evaluation = run.manifest()["evaluation"]
    assert evaluation["after"]["loss"] < evaluation["before"]["loss"]
    assert evaluation["after"]["supervised_tokens"] == checked.data.audit.evaluation.supervised
    assert (run.adapter / "chat_template.jinja").is_file()
