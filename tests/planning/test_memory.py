from __future__ import annotations

from typing import Any

import pytest

from fastft.planning.cpu_memory import cpu_loss
from fastft.planning.memory import (
    Memory,
    bytes_a_weight,
    cache_bytes,
    largest_in_flight,
    loss_bytes,
    plan_memory,
    state_bytes,
    weight_bytes,
)
from fastft.planning.shape import Shape
from fastft.recipe.schema import LoraSection, ModelSection

SHAPE = Shape(2048, 8192, 16, 32, 8, 64, 128256, tied=True)  # Llama-3.2-1B: 1,235,814,400 parameters
EXPERTS = Shape(2048, 768, 48, 32, 4, 128, 151936, tied=False, experts=128, active=8)  # Qwen3-30B-A3B


def model(**values: Any) -> ModelSection:
    return ModelSection.model_validate({"model_name": "a/b", **values})


def lora(**values: Any) -> LoraSection:
    return LoraSection.model_validate(values)


def plan(tokens: int, **changes: Any) -> Memory:
    known: dict[str, Any] = {
        "shape": SHAPE, "model": model(), "lora": lora(), "optim": "adamw_8bit", "longest": 1024,
        "checkpointing": "unsloth", "on_cpu": False,
    }  # fmt: skip
    return plan_memory(**{**known, "in_flight": tokens, **changes})


def test_parts_sum_to_the_total() -> None:
    memory = plan(4096, checkpointing=False)
    parts = memory.as_dict()
    assert parts.pop("total") == memory.total == sum(parts.values())
    assert min(parts.values()) >= 0


def test_counts_of_experts() -> None:
    assert EXPERTS.parameters == pytest.approx(30_532_122_624, rel=0.001)  # what Qwen3-30B-A3B's checkpoint holds
    assert EXPERTS.computed == pytest.approx(2.7e9, rel=0.05)  # 3.3 B active, with embedding and head


@pytest.mark.parametrize("on_cpu", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True, "unsloth"])
@pytest.mark.parametrize("loss", ["chunked", "full", "score"])
def test_more_tokens_never_take_less(on_cpu: bool, checkpointing: Any, loss: Any) -> None:
    sizes = [1, 7, 64, 511, 512, 513, 2048, 4096, 4097, 16384, 100_000]
    planned = [plan(size, on_cpu=on_cpu, checkpointing=checkpointing, loss=loss).total for size in sizes]
    assert planned == sorted(planned)


@pytest.mark.parametrize("room", [int(2.5e9), 8 << 30, 24 << 30])
def test_the_largest_that_fits_fits_and_the_next_does_not(room: int) -> None:
    found = largest_in_flight(lambda tokens: plan(tokens, checkpointing=False), room)
    if found:
        assert plan(found, checkpointing=False).total <= room
    assert plan(found + 1, checkpointing=False).total > room


def test_keeping_costs_more_than_recomputing_and_that_more_than_offloading() -> None:
    kept, recomputed, offloaded = (plan(8192, checkpointing=way).total for way in (False, True, "unsloth"))
    assert kept > recomputed > offloaded


def test_weights_by_bits() -> None:
    plain = SHAPE.parameters - SHAPE.linear
    assert weight_bytes(SHAPE, model()) == pytest.approx(0.516 * SHAPE.linear + 2 * plain, rel=1e-3)
    assert weight_bytes(SHAPE, model(load_in_8bit=True)) == SHAPE.linear + 2 * plain
    assert weight_bytes(SHAPE, model(load_in_16bit=True)) == 2 * SHAPE.parameters
    assert weight_bytes(SHAPE, model(full_finetuning=True)) == 4 * SHAPE.parameters


def test_a_quantised_repository_stays_so_unless_16_bits_are_asked_for() -> None:
    from dataclasses import replace

    stored = replace(SHAPE, stored=0.516, kept=1000)
    assert bytes_a_weight(stored, model(load_in_4bit=False)) == 0.516
    assert bytes_a_weight(stored, model(load_in_16bit=True)) == 2
    assert weight_bytes(stored, model()) > weight_bytes(replace(stored, kept=0), model())


@pytest.mark.parametrize(
    ("optim", "each"),
    [("adamw_torch", 8), ("adamw_torch_fused", 8), ("adamw_8bit", 2), ("lion_8bit", 1), ("lion_32bit", 4), ("sgd", 0),
     ("ademamix_8bit", 3), ("paged_adamw_8bit", 0)],
)  # fmt: skip
def test_states_of_optimisers(optim: str, each: float) -> None:
    assert state_bytes(SHAPE, lora(), optim) == each * SHAPE.lora(16)


def test_paged_states_stay_in_memory_on_the_cpu() -> None:
    assert state_bytes(SHAPE, lora(), "paged_adamw_8bit", on_cpu=True) == 2 * SHAPE.lora(16)


def test_embeddings_keep_32_bits_in_8_bit_optimisers() -> None:
    section = lora(modules_to_save=["embed_tokens"])
    assert state_bytes(SHAPE, section, "adamw_8bit") == 2 * SHAPE.lora(16) + 8 * SHAPE.head


def test_everything_is_trained_in_32_bits() -> None:
    memory = plan(512, model=model(full_finetuning=True), lora=None, optim="adamw_torch")
    assert memory.weights == 4 * SHAPE.parameters
    assert memory.lora + memory.optimizer == 12 * SHAPE.parameters  # gradients and Adam's two moments


@pytest.mark.parametrize("on_cpu", [False, True])
def test_a_reference_is_a_copy_only_where_everything_is_trained(on_cpu: bool) -> None:
    full: dict[str, Any] = {"model": model(full_finetuning=True), "lora": None, "on_cpu": on_cpu}
    assert plan(64, **full, reference=True).weights - plan(64, **full).weights == 2 * SHAPE.parameters
    assert plan(64, on_cpu=on_cpu, reference=True) == plan(64, on_cpu=on_cpu)


def test_the_loss_is_made_in_chunks() -> None:
    assert loss_bytes(SHAPE, 100, "chunked") == 8 * 100 * 128256
    assert loss_bytes(SHAPE, 4096, "chunked") == 8 * 512 * 128256
    assert loss_bytes(SHAPE, 8192, "chunked") == 8 * 1024 * 128256
    assert loss_bytes(SHAPE, 1 << 20, "chunked") == 2 << 30
    assert loss_bytes(SHAPE, 8192, "score") == 0
    assert loss_bytes(SHAPE, 8192, "full") == 10 * 8192 * 128256


def test_the_cache_of_answers() -> None:
    assert cache_bytes(SHAPE, 1) == 2 * 2 * 8 * 64 * 16
    assert plan(64, cached=1_000_000).total - plan(64).total > 30e9
    assert plan(64, cached=16).total == plan(64).total  # it is gone before a step begins


def test_only_some_targets() -> None:
    few = plan(512, lora=lora(target_modules=["q_proj"], layers_to_transform=[0]))
    assert few.lora == 8 * 16 * (2048 + 2048)


def test_the_cpu_counts_the_process() -> None:
    assert plan(1, on_cpu=True).overhead > 1e9


@pytest.mark.parametrize(
    ("loss", "tokens", "size"),
    [
        ("full", 100, 10 * 100 * 128256),
        ("chunked", 100, 16 * 100 * 128256),
        ("chunked", 1000, 16 << 24),
        ("score", 9, 0),
    ],
)
def test_the_loss_on_the_cpu(loss: Any, tokens: int, size: int) -> None:
    assert cpu_loss(SHAPE, tokens, loss, 2) == size
