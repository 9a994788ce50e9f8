from __future__ import annotations

import pytest

from fastft.trainers import find_method
from fastft.trainers.defaults import choose_defaults


def _chosen(given=None, *, parameters=8_000_000_000, packs=10_000, lora=True, on_cpu=False, method="sft") -> dict:
    chosen = choose_defaults(
        given or {},
        find_method(method),
        parameters=parameters,
        examples=10_000,
        sequences=packs,
        max_length=2048,
        lora=lora,
        on_cpu=on_cpu,
    )
    return {default.key: default.value for default in chosen}


def test_what_the_recipe_gives_is_never_chosen() -> None:
    given = {"learning_rate": 1e-5, "num_train_epochs": 7, "optim": "adamw_torch", "warmup_steps": 0, "seed": 1}
    assert not set(_chosen(given)) & set(given)


@pytest.mark.parametrize(
    ("parameters", "lora", "expected"),
    [(3e6, True, 1e-3), (8e9, True, 2e-4), (7e10, True, 1e-4), (5e8, False, 5e-5), (8e9, False, 2e-5)],
)
def test_learning_rate_follows_size(parameters: float, lora: bool, expected: float) -> None:
    assert _chosen(parameters=int(parameters), lora=lora)["learning_rate"] == expected


def test_steps_decide_warmup_and_checkpoints() -> None:
    chosen = _chosen({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_train_epochs": 1})
    assert chosen["warmup_steps"] == 62  # 5 % of 10,000 / 8 = 1,250 steps
    assert chosen["save_steps"] == 313
    assert "num_train_epochs" not in _chosen({"max_steps": 10})


def test_eight_bit_optimiser_only_on_a_gpu() -> None:
    assert _chosen()["optim"] == "adamw_8bit"
    assert _chosen(on_cpu=True)["optim"] == "adamw_torch_fused"


def test_a_step_learns_sixteen_conversations_packed_or_not() -> None:
    padded = _chosen()
    assert padded["per_device_train_batch_size"] * padded["gradient_accumulation_steps"] == 16
    packed = _chosen({"packing": True}, packs=2_500)  # four conversations a pack
    assert packed["per_device_train_batch_size"] * packed["gradient_accumulation_steps"] == 4
    on_cpu = _chosen({"packing": True}, packs=1_000, on_cpu=True)
    assert (on_cpu["per_device_train_batch_size"], on_cpu["gradient_accumulation_steps"]) == (2, 1)
