"""KTO is fed what TRL would make of the rows, starts at its reference, and says when the data is out of balance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import fastft
from fastft.backend import import_unsloth
from fastft.data.conversation import Conversation, Message
from fastft.errors import TrainingError
from fastft.trainers.kto import feeding_order, warn_of_imbalance
from tests.trainers.preferences import answers_of, job_on_tiny, judged_data


def _warning(wanted: int, unwanted: int, **arguments: float) -> str:
    rows = [
        Conversation((Message("user", "p"),), "x:1", label=label)
        for label, count in ((True, wanted), (False, unwanted))
        for _ in range(count)
    ]
    return " ".join(warn_of_imbalance(cast(Any, SimpleNamespace(train_conversations=rows)), arguments))


@pytest.mark.parametrize(("wanted", "unwanted"), [(100, 100), (133, 100), (120, 100), (95, 100), (140, 100)])
def test_a_balanced_set_has_no_warning(wanted: int, unwanted: int) -> None:
    assert _warning(wanted, unwanted) == ""


@pytest.mark.parametrize(
    ("wanted", "unwanted", "key"), [(400, 100, "undesirable_weight"), (100, 300, "desirable_weight")]
)
def test_both_counts_and_the_weight_to_set_are_said_and_the_weight_is_right(
    wanted: int, unwanted: int, key: str
) -> None:
    said = _warning(wanted, unwanted)
    assert f"{wanted} wanted and {unwanted} unwanted answers" in said
    assert f"set training.{key} between 3 and 4" in said
    assert _warning(wanted, unwanted, **{key: 3}) == _warning(wanted, unwanted, **{key: 4}) == ""
    assert _warning(wanted, unwanted, **{key: 6}) != ""


def test_weights_that_unbalance_a_balanced_set_are_named() -> None:
    assert "100 wanted and 100 unwanted answers with weights 4 and 1" in _warning(100, 100, desirable_weight=4)
    assert "there are 5 wanted and 0 unwanted answers: KTO learns from both" in _warning(5, 0)


def test_check_says_it(tmp_path: Path) -> None:
    rows = [{"prompt": f"p {n}", "completion": f"a {n}", "label": n % 5 != 0} for n in range(50)]
    path = tmp_path / "kto.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = {"model_name": "fastft/tiny", "max_seq_length": 64}
    found = fastft.check({"model": model, "lora": {"r": 8}, "data": {"path": str(path)}, "method": "kto"}).warnings
    expected = "40 wanted and 10 unwanted answers, and KTO wants their weighted numbers between 1:1 and 4:3"
    assert any(expected in warning for warning in found)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from fastft.trainers.kto import build_trainer

    folder = tmp_path_factory.mktemp("kto")
    return build_trainer(job_on_tiny(judged_data(folder), folder, load_in_4bit=True))


@pytest.mark.slow
def test_the_first_loss_is_a_half_and_no_answer_has_a_reward_yet(trainer: Any) -> None:
    from fastft.trainers.measuring import measure

    found = measure(trainer, trainer.train_dataset)
    assert found["loss"] == pytest.approx(0.5, abs=1e-6)
    for key in ("rewards/chosen", "rewards/rejected", "rewards/margins", "kl"):
        assert found[key] == pytest.approx(0.0, abs=1e-6), key
    assert "ref" not in trainer.model.peft_config


@pytest.mark.slow
def test_every_answer_is_fed_with_its_label_and_is_shuffled(trainer: Any, tmp_path: Path) -> None:
    data = judged_data(tmp_path)
    expected = [
        (*answers_of(example), conversation.label)
        for example, conversation in zip(data.train, data.train_conversations, strict=True)
    ]
    fed = [(row["prompt_ids"], row["completion_ids"], row["label"]) for row in trainer.train_dataset]
    assert sorted(fed) == sorted(expected)
    assert fed != expected


def test_batches_have_both_labels_where_unwanted_answers_are_shorter() -> None:
    labels = [row % 2 == 0 for row in range(400)]
    lengths = [(500 if label else 50) + row % 97 for row, label in enumerate(labels)]
    order = feeding_order(lengths, labels, 8, seed=0)
    assert sorted(order) == list(range(400))
    for at in range(0, 400, 8):
        assert 2 <= sum(labels[row] for row in order[at : at + 8]) <= 6


@pytest.mark.slow
def test_the_kl_answers_are_those_that_trl_makes(trainer: Any) -> None:
    """Of each batch of 4 the answers turn by one; TRL's own method, given the answers as texts, makes the same."""
    from datasets import Dataset
    from trl import KTOTrainer  # pyright: ignore[reportPrivateImportUsage]

    fed = trainer.train_dataset
    ends = trainer.processing_class.decode([fed[0]["completion_ids"][-1]])
    texts = [
        {
            "prompt": trainer.processing_class.decode(row["prompt_ids"]),
            "completion": trainer.processing_class.decode(row["completion_ids"]),
            "label": row["label"],
        }
        for row in fed
    ]
    assert all(row["completion"].endswith(ends) for row in texts)
    args = [Dataset.from_list(texts), trainer.processing_class, trainer.args, "train"]
    theirs: Any = KTOTrainer._prepare_dataset(trainer, *args)
    assert theirs["completion_ids"][:] == fed["completion_ids"][:]
    assert theirs["KL_completion_ids"][:] == fed["KL_completion_ids"][:]
    assert fed["KL_completion_ids"][:4] == [fed["completion_ids"][i] for i in (3, 0, 1, 2)]


@pytest.mark.slow
def test_a_model_that_is_not_its_reference_is_refused(trainer: Any) -> None:
    """An adapter that says something already, while the reference is the model without it."""
    import torch

    from fastft.trainers.dpo import require_start

    changed: Sequence[Any] = [p for name, p in trainer.model.named_parameters() if "lora_B" in name]
    with torch.no_grad():
        for parameter in changed:
            parameter.fill_(0.05)
    try:
        with pytest.raises(TrainingError, match="isn't its own reference before training: rewards of"):
            require_start(trainer)
    finally:
        with torch.no_grad():
            for parameter in changed:
                parameter.zero_()
    require_start(trainer)


@pytest.mark.slow
def test_without_a_kl_term_there_are_no_kl_answers(tmp_path: Path) -> None:
    import_unsloth()
    from fastft.trainers.kto import build_trainer

    options = {"loss_type": "apo_zero_unpaired", "per_device_train_batch_size": 1, "train_sampling_strategy": "random"}
    trainer = build_trainer(job_on_tiny(judged_data(tmp_path), tmp_path, **options))
    assert "KL_completion_ids" not in trainer.train_dataset.column_names
