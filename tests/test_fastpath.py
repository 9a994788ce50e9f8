"""The fast-path audit: trainings on the CPU for real, planted losses, and Unsloth's own functions on real modules."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

import fastft
from fastft.device import Device
from fastft.fastpath.audit import FastPathAudit
from fastft.fastpath.foreseen import FAST_TYPES, foreseen
from fastft.fastpath.judged import Asked
from fastft.recipe.load import load_recipe
from fastft.recipe.schema import Recipe
from fastft.run import Run
from tests.short_runs import recipe_of, write_chats, write_pairs

H100 = Device("cuda", "NVIDIA H100 80GB HBM3", 80 << 30, 16, 128 << 30)
T4 = Device("cuda", "Tesla T4", 15 << 30, 4, 32 << 30)
CPU = Device("cpu", "x86_64", 16 << 30, 2, 16 << 30)
LLAMA = {"model_type": "llama", "vocab_size": 128256, "hidden_size": 4096}


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    return write_chats(tmp_path / "chats.jsonl")


def _foreseen(chats: Path, device: Device, config: dict[str, Any] = LLAMA, **sections: Any) -> list[str]:
    recipe = load_recipe(recipe_of(chats, **sections))
    return list(foreseen(recipe, config, device, dict(recipe.training)))


# What recipe, config and device alone tell


def test_a_recipe_on_the_fast_path_is_warned_of_nothing(chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastft.fastpath.foreseen._torch", lambda: (2, 14))
    for kind in FAST_TYPES:
        config = {**LLAMA, "model_type": kind}
        told = _foreseen(chats, H100, config, training={"packing": kind != "gemma2"})
        assert [line for line in told if "biases" not in line] == [], kind
    assert _foreseen(chats, CPU, training={"packing": True}) == []


@pytest.mark.parametrize(
    ("sections", "config", "said"),
    [
        ({"lora": {"bias": "all"}}, {}, "fused LoRA: lora.bias is all"),
        ({"lora": {"use_dora": True}}, {}, "fused LoRA: lora.use_dora is true"),
        (
            {"lora": {"target_modules": ["q_proj", "v_proj"]}}, {},
            "fused LoRA: lora.target_modules has q_proj, v_proj without k_proj",
        ),
        (
            {"lora": {"target_modules": ["gate_proj", "down_proj", "o_proj"]}}, {},
            "fused LoRA: lora.target_modules has gate_proj, down_proj without up_proj",
        ),
        ({}, {"model_type": "phi3"}, "Unsloth's layers: it has hand-written ones for llama, "),
        ({"model": {"load_in_8bit": True}}, {}, "Unsloth's layers: model.load_in_8bit takes its generic path"),
        ({}, {"model_type": "qwen2"}, "fused LoRA of q, k and v: qwen2 has biases on them"),
        ({"training": {"packing": True}}, {"model_type": "gemma2"}, "packing: Unsloth packs no gemma2; 1.7 to"),
        ({"model": {"dtype": "float32"}}, {}, "16 bits: model.dtype is float32"),
    ],
)  # fmt: skip
def test_what_leaves_the_fast_path_on_a_gpu(
    sections: dict[str, Any], config: dict[str, Any], said: str, chats: Path
) -> None:
    told = _foreseen(chats, H100, {**LLAMA, **config}, **sections)
    assert len(told) == 1
    assert told[0].startswith(said)
    on_cpu = _foreseen(chats, CPU, {**LLAMA, **config}, **sections)
    fused = sections.get("lora", {}).keys() & {"bias", "use_dora"}  # what fused_lora.py leaves to PEFT
    assert [one.partition(":")[0] for one in on_cpu] == (["fused LoRA"] if fused else [])


def test_whole_projections_are_no_loss(chats: Path) -> None:
    for modules in (["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj", "down_proj"]):
        assert _foreseen(chats, H100, lora={"target_modules": modules}) == []


def test_embeddings_trained_whole_cost_what_performance_md_says(chats: Path) -> None:
    lora = {"modules_to_save": ["embed_tokens", "lm_head"]}
    for device in (H100, CPU):
        told = _foreseen(chats, device, lora=lora)
        assert told == [
            "memory: embed_tokens and lm_head are trained whole; about 16.8 GB for weight, gradient and Adam's moments "
            "in float32"
        ]
    assert "about 8.4 GB" in _foreseen(chats, H100, lora={"modules_to_save": ["lm_head"]})[0]
    small = {**LLAMA, "vocab_size": 1536, "hidden_size": 256}
    assert _foreseen(chats, CPU, small, lora=lora) == []  # 13 MB are nothing to speak of


def test_an_old_card_is_told_of_what_it_lacks(chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastft.fastpath.foreseen._torch", lambda: (2, 14))
    packed, half = _foreseen(chats, T4, training={"packing": True})
    assert packed.startswith("torch's varlen attention: Tesla T4 is below compute capability 8.0; ")
    assert half == "bf16: Tesla T4 has no units for it; fp16 with loss scaling takes its place"


def test_an_old_torch_is_told_of(chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastft.fastpath.foreseen._torch", lambda: (2, 11))
    (told,) = _foreseen(chats, H100, training={"packing": True})
    assert told.startswith("torch's varlen attention: torch 2.11 has none; ")
    assert _foreseen(chats, H100) == []


def test_smoothed_labels_want_every_logit(chats: Path) -> None:
    training = {"label_smoothing_factor": 0.1, "per_device_train_batch_size": 4, "max_length": 128}
    for device in (H100, CPU):
        (told,) = _foreseen(chats, device, training=training)
        assert told.endswith("; about 0.66 GB for the logits of 512 tokens")  # 10 bytes · 512 · 128,256


@pytest.mark.parametrize(
    ("name", "value", "device"),
    [
        ("UNSLOTH_RETURN_LOGITS", "1", H100),
        ("UNSLOTH_COMPILE_DISABLE", "1", H100),
        ("UNSLOTH_TORCH_VARLEN", "0", H100),
        ("UNSLOTH_CPU_CHUNKED_CE", "0", CPU),
    ],
)
def test_variables_that_switch_things_off_are_told(
    name: str, value: str, device: Device, chats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    (told,) = _foreseen(chats, device)
    assert f"the environment has {name}={value}" in told


def test_check_says_it(chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSLOTH_CPU_CHUNKED_CE", "0")
    monkeypatch.setattr("fastft.checking.find_device", lambda: CPU)
    assert any("UNSLOTH_CPU_CHUNKED_CE=0" in warning for warning in fastft.check(recipe_of(chats)).warnings)


# Real trainings on the CPU


def _trained(recipe: dict[str, Any], folder: Path) -> tuple[dict[str, Any], str]:
    """The manifest's fast_path, and what was printed."""
    output = io.StringIO()
    run = fastft.train(recipe, output_dir=folder, console=Console(file=output, width=250))
    return run.manifest()["fast_path"], output.getvalue()


def _computes_in() -> str:
    """What Unsloth chooses for this machine's processor."""
    from unsloth import is_bfloat16_supported

    return "bfloat16" if is_bfloat16_supported() else "float32"


@pytest.mark.slow
def test_a_training_on_the_cpu_tells_what_is_on_in_one_line(chats: Path, tmp_path: Path) -> None:
    found, printed = _trained(recipe_of(chats), tmp_path / "run")
    assert found["lost"] == []
    assert found["unknown"] == []
    layers = found["layers"]
    assert (layers["layers"], layers["adapted"], layers["projections"]) == (4, 4, 28)
    assert (layers["linear"], layers["four_bit"], layers["recomputed"]) == (28, 28, 0)
    assert layers["dtypes"] == {"base": "nf4", "adapter": "float32"}
    assert found["compute"] == _computes_in()
    lines = [line for line in printed.splitlines() if line.startswith("fast path")]
    assert len(lines) == 1
    assert "4 of 4 layers with LoRA on NF4 · attention " in lines[0]
    assert "logits of learned tokens only · no recomputation" in lines[0]
    assert json.loads((tmp_path / "run" / "fast_path.json").read_text()) == found


@pytest.mark.slow
def test_packed_documents_are_counted_in_the_real_batch(chats: Path, tmp_path: Path) -> None:
    found, _ = _trained(recipe_of(chats, training={"packing": True, "per_device_train_batch_size": 1}), tmp_path / "a")
    batch = found["batch"]
    assert batch["apart"]
    assert not batch["masked"]
    assert batch["padding"] == 0
    assert batch["documents"] == 5  # of 22 tokens each, in a pack of 128
    assert found["lost"] == []


@pytest.mark.slow
def test_recomputation_dora_and_sixteen_bits_are_seen(chats: Path, tmp_path: Path) -> None:
    lora = {"r": 8, "use_dora": True, "use_gradient_checkpointing": True}
    found, _ = _trained(recipe_of(chats, lora=lora, model={"load_in_16bit": True}), tmp_path / "run")
    assert found["layers"]["recomputed"] == 4
    assert found["layers"]["four_bit"] == 0
    assert found["layers"]["dtypes"]["base"] == _computes_in()
    assert "recomputing 4 of 4 layers" in found["on"]
    assert f"LoRA on {'bf16' if _computes_in() == 'bfloat16' else 'fp32'}" in found["on"]
    assert found["lost"] == []  # all of it was asked for


@pytest.mark.slow
def test_other_methods_have_their_batch_seen_too(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    recipe = recipe_of(pairs, method="dpo", training={"max_length": 64})
    found, _ = _trained(recipe, tmp_path / "run")
    assert found["batch"]["sequences"] == 8  # four pairs
    assert found["unknown"] == []
    assert found["lost"] == []


# Planted losses


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    from fastft.model import load_model
    from fastft.recipe.schema import LoraSection, ModelSection

    model = ModelSection.model_validate({"model_name": "fastft/tiny", "max_seq_length": 128})
    return load_model(model, LoraSection.model_validate({"r": 8, "use_gradient_checkpointing": False}))


def _audit(trainer: Any, folder: Path, **asked: Any) -> FastPathAudit:
    folder.mkdir(exist_ok=True)
    wanted = Asked(True, True, False, False, whole_sequences=False, learns_text=True)
    return FastPathAudit(trainer, replace(wanted, **asked), Run(folder), Console(file=io.StringIO()))


def _trainer(loaded: tuple[Any, Any], folder: Path, **arguments: Any) -> Any:
    from fastft.data.conversation import Example
    from fastft.trainers.sft import build_trainer
    from tests.trainers.jobs import job_of

    examples = [
        Example(list(range(5, 5 + n)), [-100, *range(6, 5 + n)], f"row {n}", 0, 0) for n in (6, 9, 12, 15, 18, 21)
    ]
    given = {"max_length": 64, "max_steps": 1, "per_device_train_batch_size": 2, "gradient_checkpointing": False}
    return build_trainer(job_of(*loaded, examples, {**given, "save_strategy": "no", **arguments}, folder))


@pytest.mark.slow
def test_packing_switched_off_by_a_collator_is_found(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    trainer = _trainer(loaded, tmp_path, packing=True)
    from transformers import DataCollatorForSeq2Seq

    rows = [{name: row[name] for name in ("input_ids", "labels")} for row in trainer.train_dataset]
    trainer.train_dataset = rows
    trainer.data_collator = DataCollatorForSeq2Seq(trainer.processing_class, padding=True)
    audit = _audit(trainer, tmp_path / "run", packing=True)
    audit.look_at_model()
    audit.wait_for_batch()
    trainer.train()
    assert [found.what for found in audit.lost] == ["packing"]
    assert audit.lost[0].cause == "the trainer was given a data collator of its own, DataCollatorForSeq2Seq"
    assert not trainer.model._forward_hooks  # it took itself off


@pytest.mark.slow
def test_recomputation_that_nobody_asked_for_is_found(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    trainer = _trainer(loaded, tmp_path)
    model = trainer.model
    model.gradient_checkpointing_enable()
    audit = _audit(trainer, tmp_path / "run")
    audit.wait_for_batch()
    audit.look_at_model()
    assert audit.lost == []  # it is told once it really happens
    try:
        trainer.train()
    finally:
        model.gradient_checkpointing_disable()
    assert [(found.what, found.cost) for found in audit.lost] == [
        ("recomputation", "1.27 to 1.45 times the time of a step")
    ]
    assert audit.lost[0].cause.startswith("on in 4 of 4 layers")


@pytest.mark.slow
def test_recomputation_that_was_asked_for_and_is_off_is_found(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    trainer = _trainer(loaded, tmp_path)
    audit = _audit(trainer, tmp_path / "run", recompute=True)
    audit.look_at_model()
    audit.wait_for_batch()
    trainer.train()
    assert [found.cause for found in audit.lost] == ["off, and it was asked for"]


@pytest.mark.slow
def test_every_logit_made_is_found_with_its_bytes(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    trainer = _trainer(loaded, tmp_path, label_smoothing_factor=0.1)
    audit = _audit(trainer, tmp_path / "run")
    audit.wait_for_batch()
    trainer.train()
    assert audit.batch is not None
    assert audit.batch.logits == audit.batch.tokens
    (found,) = audit.lost
    assert (found.what, found.cause) == (
        "cross entropy",
        "training.label_smoothing_factor is computed from every logit",
    )
    gigabytes = 10 * audit.batch.tokens * 1536 / 1e9
    assert found.cost == f"about {gigabytes:.2g} GB for the logits of {audit.batch.tokens} tokens"


@pytest.mark.slow
def test_a_trainer_that_unsloth_did_not_patch_is_found(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    from fastft.fastpath.judged import lost_in_trainer

    asked = Asked(True, True, False, False, whole_sequences=False, learns_text=True)
    trainer = _trainer(loaded, tmp_path)
    assert list(lost_in_trainer(trainer, asked)) == []
    unpatched = next(each for each in type(trainer).__mro__ if not hasattr(each, "_unsloth_cpu"))
    trainer.__class__ = unpatched  # TRL's own, as a script has it that imported trl first
    assert [lost.what for lost in lost_in_trainer(trainer, asked)] == ["Unsloth's trainer"]
    assert list(lost_in_trainer(trainer, replace(asked, learns_text=False))) == []  # there is no other for it there


@pytest.mark.slow
def test_a_layer_that_is_not_in_four_bits_is_found(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    import torch

    model = loaded[0]
    projection = model.base_model.model.model.layers[1].mlp.up_proj
    former = projection.base_layer
    plain = torch.nn.Linear(former.in_features, former.out_features, bias=False, dtype=torch.bfloat16)
    projection.base_layer = plain
    try:
        audit = _audit(SimpleNamespace(model=model), tmp_path / "run", learns_text=False)
        audit.look_at_model()
    finally:
        projection.base_layer = former
    assert [str(found)[:44] for found in audit.lost] == ["4 bits: 1 of 28 linear layers are not (nothi"]


@pytest.mark.slow
def test_a_probe_that_fails_says_unknown_and_breaks_nothing(
    loaded: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("another version of Unsloth")

    trainer = _trainer(loaded, tmp_path)
    for name in ("count_layers", "attention_of", "read_batch"):
        monkeypatch.setattr(f"fastft.fastpath.audit.{name}", broken)
    audit = _audit(trainer, tmp_path / "run")
    audit.look_at_model()
    audit.wait_for_batch()
    trainer.train()
    assert trainer.state.global_step == 1
    assert audit.unknown == ["layers", "batch", "attention"]
    assert audit.summary() == "unknown: layers, batch, attention"
    assert "layers couldn't be looked at" in caplog.text


# What is only there on a GPU: Unsloth's own functions and classes, on the real modules

_ON_UNSLOTHS_FUNCTIONS = """
import functools, json, sys, types
from fastft import backend
from fastft.model import load_model
from fastft.recipe.schema import LoraSection, ModelSection

backend.import_unsloth()
model, _ = load_model(ModelSection.model_validate({"model_name": "fastft/tiny", "max_seq_length": 128}),
                      LoraSection.model_validate({"r": 8}))
from unsloth.models import llama
from unsloth.utils import attention_dispatch as dispatch
from fastft.fastpath.attention import attention_of
from fastft.fastpath.batch import Batch
from fastft.fastpath.layers import count_layers, decoder_layers

found = {}
layers = decoder_layers(model)
found["before"] = count_layers(model).fused, count_layers(model).patched
for layer in layers:  # as patch_peft_model binds them
    layer.self_attn.apply_qkv, layer.self_attn.apply_o = llama.apply_lora_qkv, llama.apply_lora_o
    layer.mlp.forward = types.MethodType(llama.apply_lora_mlp_swiglu, layer.mlp)
found["all"] = count_layers(model).fused
layers[0].mlp.forward = types.MethodType(functools.partial(llama.apply_lora_mlp_swiglu, inplace=False), layers[0].mlp)
found["partial"] = count_layers(model).fused
del layers[1].self_attn.apply_qkv
found["cause"] = count_layers(model).unfused
attention = type(layers[0].self_attn)
attention.forward = llama.LlamaAttention_fast_forward
type(layers[0]).forward = llama.LlamaDecoderLayer_fast_forward
llama.mark_unsloth_fast_path(model)
found["patched"] = count_layers(model).patched
batch = Batch(1, 64, 0, 4, True, 30, False, None, 1536)
name, lost = attention_of(model, batch, model.dtype)
found["attention"] = name, str(lost)
dispatch.HAS_FLASH_ATTENTION = True
found["flash"] = attention_of(model, batch, model.dtype)[0]
print("FOUND" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def on_unsloths_functions() -> dict[str, Any]:
    """In a process of its own: importing unsloth.models.llama patches what other tests use."""
    done = subprocess.run([sys.executable, "-c", _ON_UNSLOTHS_FUNCTIONS], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert lines, done.stderr[-2000:]
    return json.loads(lines[0].removeprefix("FOUND"))


@pytest.mark.slow
def test_fused_parts_are_counted_by_the_functions_bound(on_unsloths_functions: dict[str, Any]) -> None:
    found = on_unsloths_functions
    assert found["before"] == [{"qkv": 0, "o": 0, "mlp": 0}, 0]
    assert found["all"] == {"qkv": 4, "o": 4, "mlp": 4}
    assert found["partial"] == {"qkv": 4, "o": 4, "mlp": 4}
    assert list(found["cause"].values()) == [1]
    assert found["patched"] == 4


@pytest.mark.slow
def test_attention_is_what_unsloths_dispatcher_says(on_unsloths_functions: dict[str, Any]) -> None:
    name, lost = on_unsloths_functions["attention"]
    assert name == "SDPA document by document"  # neither FlashAttention nor CUDA here, and xformers doesn't load
    assert lost.startswith("packed attention: ")
    assert lost.endswith("2.2 to 2.6 times slower than torch's varlen kernel on an H100")
    assert on_unsloths_functions["flash"] == "FlashAttention varlen"


def test_why_a_part_is_not_fused() -> None:
    from fastft.fastpath.layers import why_unfused

    names = ("q_proj", "k_proj", "v_proj")

    def projection(**changes: Any) -> Any:
        base = SimpleNamespace(bias=changes.pop("bias", None), weight=SimpleNamespace(dtype="torch.bfloat16"))
        return SimpleNamespace(lora_A={}, base_layer=base, **changes)

    plain = projection()
    assert why_unfused([plain, SimpleNamespace(), plain], names).startswith("lora.target_modules leaves out k_proj")
    assert why_unfused([plain, plain, projection(bias=1)], names) == "the model has biases on q_proj, k_proj, v_proj"
    dora = projection(lora_magnitude_vector={"default": 1})
    assert why_unfused([dora, dora, dora], names) == "lora.use_dora is true"


def test_asked_is_read_from_recipe_and_arguments(chats: Path) -> None:
    recipe = cast(Recipe, load_recipe(recipe_of(chats, training={"packing": True})))
    asked = Asked.of(recipe, recipe.training)
    assert asked == Asked(True, True, False, True, whole_sequences=False, learns_text=True)
