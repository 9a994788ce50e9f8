"""The fast-path audit on a card: what Unsloth's CUDA path really switched on. Run with `pytest tests/gpu`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.short_runs import recipe_of, write_chats

pytestmark = pytest.mark.gpu


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    return write_chats(tmp_path / "chats.jsonl")


def _trained(data: Path, **sections: Any) -> tuple[dict[str, Any], str]:
    """fast_path of the manifest, and what was printed, after three steps of fastft/tiny."""
    import fastft

    output = io.StringIO()
    folder = data.parent / "run"
    run = fastft.train(recipe_of(data, **sections), output_dir=folder, console=Console(file=output, width=250))
    return run.manifest()["fast_path"], output.getvalue()


def test_every_layer_runs_in_unsloths_kernels(chats: Path) -> None:
    found, printed = _trained(chats, training={"packing": True})
    layers = found["layers"]
    count = layers["layers"]
    assert layers["fused"] == {"qkv": count, "o": count, "mlp": count}
    assert layers["patched"] == count
    assert layers["four_bit"] == layers["linear"]
    assert layers["dtypes"] == {"base": "nf4", "adapter": "float32"}
    assert found["lost"] == []
    assert found["unknown"] == []
    assert sum(line.startswith("fast path") for line in printed.splitlines()) == 1


def test_packs_reach_a_kernel_for_varying_lengths(chats: Path) -> None:
    import torch

    found, _ = _trained(chats, training={"packing": True})
    assert found["batch"]["apart"]
    assert found["batch"]["padding"] == 0
    assert found["batch"]["documents"] > found["batch"]["sequences"]
    assert found["batch"]["logits"] is None  # the fused cross entropy
    if torch.cuda.get_device_capability()[0] >= 8:
        assert found["attention"] in ("FlashAttention varlen", "torch varlen", "xformers")
        assert found["compute"] == "bfloat16"
    else:
        assert found["attention"] == "xformers"
        assert found["compute"] == "float16"


def test_padding_free_batches_are_told_from_padded_ones(chats: Path) -> None:
    found, _ = _trained(chats, training={"padding_free": True})
    assert found["batch"]["apart"]
    assert found["batch"]["padding"] == 0


@pytest.mark.parametrize(
    ("lora", "cause"),
    [
        ({"use_dora": True}, "lora.use_dora is true"),
        ({"target_modules": ["q_proj", "v_proj"]}, "lora.target_modules leaves out k_proj beside"),
    ],
)
def test_layers_off_the_kernels_are_told_with_their_cause(lora: dict[str, Any], cause: str, chats: Path) -> None:
    found, printed = _trained(chats, lora=lora)
    assert any(cause in lost["cause"] for lost in found["lost"])
    assert f": {cause}" in printed  # by check, by the audit, or both


def test_the_variable_that_returns_logits_is_found(chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSLOTH_RETURN_LOGITS", "1")
    found, _ = _trained(chats, training={"packing": True})
    lost = {each["what"]: each["cause"] for each in found["lost"]}
    assert lost["packing"] == "UNSLOTH_RETURN_LOGITS=1"
    assert "cross entropy" in lost
    assert found["batch"]["logits"] == found["batch"]["tokens"]


@pytest.mark.parametrize("mode", [False, True, "unsloth"])
def test_recomputation_is_what_the_recipe_says(mode: bool | str, chats: Path) -> None:
    found, _ = _trained(chats, lora={"use_gradient_checkpointing": mode})
    layers = found["layers"]
    assert layers["recomputed"] == (0 if mode is False else layers["layers"])
    assert layers["offloaded"] == (mode == "unsloth")
    assert not any(lost["what"] == "recomputation" for lost in found["lost"])


def test_a_search_stays_within_the_plan_and_leaves_no_trace(
    chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of a searched run and of the explicit one; peak memory is the training's, not the search's."""
    import fastft

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    console, recipe = Console(file=io.StringIO()), recipe_of(chats)
    del recipe["training"]["per_device_train_batch_size"]
    searched = {**recipe, "training": {**recipe["training"], "batch": "auto"}}
    auto = fastft.train(searched, output_dir=tmp_path / "auto", console=console)
    arguments = json.loads(auto.start_path.read_text())["arguments"]
    sizes = {key: arguments[key] for key in ("per_device_train_batch_size", "gradient_accumulation_steps")}
    explicit = {**recipe, "training": {**recipe["training"], **sizes}}
    plain = fastft.train(explicit, output_dir=tmp_path / "plain", console=console)
    losses = [[point["loss"] for point in run.metrics() if "loss" in point] for run in (auto, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # kernels on a card add in another order from run to run
    assert sizes["per_device_train_batch_size"] <= auto.manifest()["plan"]["largest_batch"]
