"""Packed examples must not see each other: in transformers, and on the CPU, where Unsloth switches packing off."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from fastft.backend import import_unsloth, trainable_parameters
from fastft.data.conversation import Example
from fastft.data.packing import why_not_packed
from tests.trainers.jobs import job_of

pytestmark = pytest.mark.slow


def _examples() -> list[Example]:
    lengths = [5, 17, 9, 30, 3, 12, 22, 8]
    rows = [[(7 * i + 13 * j) % 500 + 5 for j in range(n)] for i, n in enumerate(lengths)]
    return [Example(ids, [-100, -100, *ids[2:]], f"row {i}") for i, ids in enumerate(rows)]


@pytest.fixture(scope="module")
def trainer(tiny: Path, tmp_path_factory: pytest.TempPathFactory):
    fast_language_model = import_unsloth()
    from fastft.trainers.sft import build_trainer

    model, tokenizer = fast_language_model.from_pretrained(str(tiny), max_seq_length=64, load_in_4bit=True)
    model = fast_language_model.get_peft_model(model, r=8, use_gradient_checkpointing=False)
    arguments = {"max_length": 64, "packing": True, "per_device_train_batch_size": 1, "max_steps": 1, "bf16": False}
    return build_trainer(job_of(model, tokenizer, _examples(), arguments, tmp_path_factory.mktemp("checkpoints")))


def test_every_token_and_label_is_fed_once_and_document_starts_are_not_learned(trainer) -> None:
    fed = list(trainer.get_train_dataloader())
    ids = sorted(i for batch in fed for i in batch["input_ids"].flatten().tolist())
    assert ids == sorted(i for example in _examples() for i in example.input_ids)
    supervised = sum(int((batch["labels"] != -100).sum()) for batch in fed)
    assert supervised == sum(example.supervised for example in _examples())
    assert all("attention_mask" not in batch for batch in fed)
    assert len(fed) == 2  # 106 tokens in packs of 64


def test_packed_logits_equal_the_examples_alone(trainer) -> None:
    """A leak would be seen: fed without its restarting positions, the same pack gives other logits by far."""
    import torch

    model = trainer.model.eval()
    compared, apart, leaked = 0, 0.0, 0.0
    for batch in trainer.get_train_dataloader():
        ids, positions = batch["input_ids"], batch["position_ids"]
        with torch.no_grad():
            packed = model(ids, position_ids=positions, use_cache=False).logits[0].float()
            merged = model(ids, use_cache=False).logits[0].float()
        starts = [i for i, p in enumerate(positions[0].tolist()) if p == 0] + [ids.shape[1]]
        for start, end in pairwise(starts):
            with torch.no_grad():
                alone = model(ids[:, start:end], use_cache=False).logits[0].float()
            apart = max(apart, float((packed[start:end] - alone).abs().max()))
            leaked = max(leaked, float((merged[start:end] - alone).abs().max()))
            compared += 1
    assert compared == len(_examples())
    assert apart < 0.25  # bfloat16 compute: one rounding step of a logit between 16 and 32 is 0.125
    assert leaked > 4 * apart + 1


def test_the_adapter_is_float32(trainer) -> None:
    kinds = {str(parameter.dtype) for _, parameter in trainable_parameters(trainer.model)}
    assert kinds == {"torch.float32"}


EQUAL = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "mistral", "phi3", "qwen3_moe")
LEAKING = ("lfm2", "gpt_oss")


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, float]]:
    """See packed_models.py; a process of its own, without unsloth."""
    command = [sys.executable, "-m", "tests.trainers.packed_models"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    return json.loads(done.stdout.partition("RESULT")[2])


def test_packed_loss_and_gradients_equal_those_of_the_examples_alone(measured: dict[str, dict[str, float]]) -> None:
    of_equal = {name: found for name, found in measured.items() if name.split()[0] in EQUAL}
    assert {name.split()[0] for name in of_equal} == set(EQUAL)
    for name, found in of_equal.items():
        assert found["sequences"] == 2, name
        assert abs(found["packed"] - found["alone"]) < 1e-5, name
        assert found["gradients"] < 1e-5, name
        # Without restarting positions the same tokens give another loss, so a leak would be seen.
        assert abs(found["merged"] - found["alone"]) > 1e-4, name
    for name in ("llama", "gemma2", "gemma3_text"):
        assert {f"{name} eager", f"{name} sdpa"} <= set(measured)
    # Document by document: sliding windows shorter than the documents (gemma2, gemma3, mistral) among them.
    assert {f"{name} documents" for name in EQUAL} <= set(measured)


def test_gemma_2s_soft_capping_needs_eager_attention(measured: dict[str, dict[str, float]]) -> None:
    """SDPA, transformers' default, leaves it out: packed or not, another model is trained. The others don't differ."""
    apart = {
        name: abs(measured[f"{name} eager"]["alone"] - measured[f"{name} sdpa"]["alone"])
        for name in ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text")
    }
    assert apart.pop("gemma2") > 0.01
    assert max(apart.values()) < 1e-5


def test_models_that_cannot_be_packed_are_known(measured: dict[str, dict[str, float]]) -> None:
    for name, found in measured.items():
        model_type = name.split()[0]
        leaks = abs(found["packed"] - found["alone"]) > 1e-3
        assert leaks == (model_type in LEAKING), name
        assert (why_not_packed(model_type) is not None) == leaks, name
    assert "carry a state" in (why_not_packed("qwen3_next") or "")


def test_batches_that_are_not_packed_are_fed_without_padding_too(trainer, tmp_path: Path) -> None:
    from fastft.trainers.sft import build_trainer

    arguments = {"max_length": 64, "per_device_train_batch_size": 4, "max_steps": 1, "bf16": False}
    unpacked = build_trainer(job_of(trainer.model, trainer.processing_class, _examples(), arguments, tmp_path))
    fed = list(unpacked.get_train_dataloader())
    assert [int((batch["position_ids"] == 0).sum()) for batch in fed] == [4, 4]
    assert sum(batch["input_ids"].numel() for batch in fed) == sum(len(e.input_ids) for e in _examples())
    assert sum(int((batch["labels"] != -100).sum()) for batch in fed) == sum(e.supervised for e in _examples())
    assert all("attention_mask" not in batch for batch in fed)


def test_padding_stays_where_the_recipe_wants_it(trainer, tmp_path: Path) -> None:
    from fastft.trainers.sft import build_trainer

    arguments = {
        "max_length": 64,
        "per_device_train_batch_size": 4,
        "max_steps": 1,
        "bf16": False,
        "padding_free": False,
    }
    padded = build_trainer(job_of(trainer.model, trainer.processing_class, _examples(), arguments, tmp_path))
    assert all(batch["attention_mask"].shape[0] == 4 for batch in padded.get_train_dataloader())


def test_the_attention_of_training_is_not_written_into_the_config(trainer, tmp_path: Path) -> None:
    trainer.model.config.save_pretrained(tmp_path)
    assert "fastft" not in (tmp_path / "config.json").read_text()
