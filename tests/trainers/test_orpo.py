"""ORPO and CPO take the ids and labels that rendering made, which are those TRL would make of the texts."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastft.data.conversation import IGNORE
from fastft.errors import TrainingError
from fastft.trainers.pairs import guard_pairs, labelled_pairs_dataset, pairs_dataset
from tests.trainers.preferences import answers_of, job_on_tiny, pair_data

METHODS = ("orpo", "cpo")


@pytest.fixture(scope="module", params=METHODS)
def trainer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from fastft.trainers import trainer_builder

    folder = tmp_path_factory.mktemp(request.param)
    return trainer_builder(request.param)(job_on_tiny(pair_data(folder), folder))


@pytest.mark.slow
def test_a_batch_is_our_ids_and_labels_padded(trainer: Any, tmp_path: Path) -> None:
    data = pair_data(tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
    for side, first in (("chosen", 0), ("rejected", 1)):
        for row, example in enumerate(list(data.train)[first:6:2]):
            length = len(example.input_ids)
            assert batch[f"{side}_input_ids"][row, :length].tolist() == example.input_ids
            assert batch[f"{side}_labels"][row, :length].tolist() == example.labels
            assert batch[f"{side}_attention_mask"][row].sum() == length
            assert (batch[f"{side}_labels"][row, length:] == IGNORE).all()
    assert not [key for key in batch if not key.startswith(("chosen_", "rejected_"))]


@pytest.mark.slow
def test_rows_are_what_trl_makes_of_the_same_texts(trainer: Any, tmp_path: Path) -> None:
    """TRL's own tokenize_row, with the prompt and the answers as texts."""
    stock = type(trainer).__mro__[1]
    assert stock.__module__.startswith("trl.")
    data, decode = pair_data(tmp_path), trainer.processing_class.decode
    sides = iter(data.train)
    for number, (chosen, rejected) in enumerate(zip(sides, sides, strict=True)):
        texts = {
            "prompt": decode(answers_of(chosen)[0]),
            "chosen": decode(answers_of(chosen)[1]),
            "rejected": decode(answers_of(rejected)[1]),
        }
        theirs, ours = stock.tokenize_row(trainer, texts), trainer.train_dataset[number]
        assert {key: theirs[key] for key in ours} == ours


@pytest.mark.slow
def test_no_warning_of_experiments_and_no_reference(trainer: Any) -> None:
    assert os.environ["TRL_EXPERIMENTAL_SILENCE"]
    assert list(trainer.model.peft_config) == ["default"]
    assert {str(p.dtype) for p in trainer.model.parameters() if p.requires_grad} == {"torch.float32"}


def test_what_is_fed_is_counted(tmp_path: Path) -> None:
    data = pair_data(tmp_path)
    expected = sum(len(answers_of(example)[1]) for example in data.train)
    assert expected == data.audit.train.supervised
    for dataset in (pairs_dataset(data.train), labelled_pairs_dataset(data.train)):
        guard_pairs(dataset, expected)
        guard_pairs(dataset.shuffle(seed=1), expected)
        with pytest.raises(TrainingError, match=f"would learn {expected:,} tokens, and {expected + 1:,} were audited"):
            guard_pairs(dataset, expected + 1)
    with pytest.raises(TrainingError, match="would learn 0 tokens"):
        guard_pairs(SimpleNamespace(column_names=["input_ids"]), expected)
