from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import fastft.exporters.merged as merged_module
import fastft.exporters.weights as weights_module
from fastft.errors import ExportError
from fastft.exporters.merged import copy_model, merge_adapter
from fastft.exporters.weights import SafetensorsFolder, write_sharded
from tests.exporters.models import TINY_SIZES, peft_merge, random_model, save_adapter, save_model

VARIANTS: dict[str, dict[str, Any]] = {
    "r8 on all linear layers": {"r": 8, "lora_alpha": 32, "target_modules": "all-linear"},
    "r1 on one": {"r": 1, "lora_alpha": 3, "target_modules": ["down_proj"]},
    "rslora": {"r": 9, "lora_alpha": 16, "use_rslora": True, "target_modules": ["q_proj", "v_proj"]},
    "patterns": {
        "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "up_proj"],
        "rank_pattern": {"q_proj": 6, "layers.1.mlp.up_proj": 2}, "alpha_pattern": {"k_proj": 1, "up_proj": 64},
    },
    "dora": {"r": 4, "lora_alpha": 8, "use_dora": True, "target_modules": ["o_proj", "gate_proj"]},
    "modules_to_save": {
        "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"],
    },
    "embedding and head": {"r": 4, "lora_alpha": 8, "target_modules": ["embed_tokens", "lm_head"]},
    "layers_to_transform": {"r": 4, "target_modules": ["q_proj"], "layers_to_transform": [1]},
    "trained biases": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "bias": "all"},
}  # fmt: skip


def _merged(folder: Path) -> dict[str, Any]:
    weights = SafetensorsFolder.model(folder)
    return {name: weights.read(name) for name in weights.specs}


def _by_hand(base: Path, adapter: Path) -> dict[str, Any]:
    """The definition, in torch alone: base + scaling·B·A in fp32, cast to bf16 once.

    DoRA's is m·(W + scaling·B·A) / ||W + scaling·B·A||, with the norm of each output's weights, all in fp32 as well.
    """
    import torch
    from safetensors.torch import load_file

    config = json.loads((adapter / "adapter_config.json").read_text())
    weights = {name: value for file in base.glob("*.safetensors") for name, value in load_file(file).items()}
    if json.loads((base / "config.json").read_text()).get("tie_word_embeddings", True):
        embedding = next(name for name in weights if name.endswith(("embed_tokens.weight", "wte.weight")))
        weights["lm_head.weight"] = weights[embedding]
    stored = load_file(adapter / "adapter_model.safetensors")
    found = {name.removeprefix("base_model.model."): value for name, value in stored.items()}
    scaling = config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])
    merged = {}
    for name, value in weights.items():
        module, weight = name.removesuffix(".weight"), found.get(name, value).float()
        if f"{module}.lora_A.weight" in found:
            delta = (found[f"{module}.lora_B.weight"].float() @ found[f"{module}.lora_A.weight"].float()) * scaling
            weight = weight + (delta.T if config["fan_in_fan_out"] else delta)
        if f"{module}.lora_embedding_A" in found:
            product = found[f"{module}.lora_embedding_B"].float() @ found[f"{module}.lora_embedding_A"].float()
            weight = weight + product.T * scaling
        if f"{module}.lora_magnitude_vector" in found:
            norm = torch.linalg.norm(weight, dim=1)
            weight = (found[f"{module}.lora_magnitude_vector"].float() / norm).view(-1, 1) * weight
        merged[name] = weight.to(torch.bfloat16)
    return merged


def _save_gpt2(folder: Path, tokenizer: Path) -> Path:
    """A model of Conv1D layers, whose weights lie the other way round (fan_in_fan_out)."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 256,
        "vocab_size": TINY_SIZES["vocab_size"],
    }
    return save_model(GPT2LMHeadModel(GPT2Config(**sizes)), folder, tokenizer)


EXACT: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": "all-linear", "lora_alpha": 27},
    "rslora": {"target_modules": "all-linear", "use_rslora": True, "lora_alpha": 9},
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "rslora and dora": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True, "use_dora": True},
    "trained embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "trained head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "trained both": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "LoRA on the embedding": {"target_modules": ["embed_tokens", "v_proj"]},
    "LoRA on the head": {"target_modules": ["lm_head", "v_proj"]},
    "LoRA on both": {"target_modules": ["lm_head", "embed_tokens"]},
}  # fmt: skip


@pytest.mark.parametrize("base", ["llama", "tied_qwen2"])
@pytest.mark.parametrize("variant", EXACT)
def test_equals_the_definition_bit_for_bit(
    base: str, variant: str, tiny: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(base)
    adapter = save_adapter(folder, tmp_path / "adapter", tiny, **{"r": 5, "lora_alpha": 16, **EXACT[variant]})
    merge_adapter(folder, adapter, tmp_path / "out", "bfloat16")
    _assert_is(_merged(tmp_path / "out"), _by_hand(folder, adapter), changed=folder)


def test_conv1d_equals_the_definition_bit_for_bit(tiny: Path, tmp_path: Path) -> None:
    base = _save_gpt2(tmp_path / "base", tiny)
    lora: dict[str, Any] = {
        "r": 5,
        "lora_alpha": 16,
        "target_modules": ["c_attn", "c_fc", "c_proj"],
        "fan_in_fan_out": True,
    }
    adapter = save_adapter(base, tmp_path / "adapter", tiny, **lora)
    merge_adapter(base, adapter, tmp_path / "out", "bfloat16")
    _assert_is(_merged(tmp_path / "out"), _by_hand(base, adapter), changed=base)


@pytest.mark.parametrize("variant", ["plain", "dora", "trained embedding", "LoRA on both"])
def test_blocks_of_rows_and_shards_change_no_bit(
    llama: Path, tiny: Path, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As tensors beyond _BLOCK values are merged, and models beyond MAX_SHARD_BYTES written."""
    monkeypatch.setattr(weights_module, "_BLOCK", 64)
    monkeypatch.setattr(merged_module, "write_sharded", partial(write_sharded, max_shard_bytes=100_000))
    adapter = save_adapter(llama, tmp_path / "adapter", tiny, **{"r": 5, "lora_alpha": 16, **EXACT[variant]})
    merge_adapter(llama, adapter, tmp_path / "out", "bfloat16")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 3
    _assert_is(_merged(tmp_path / "out"), _by_hand(llama, adapter), changed=llama)


def _assert_is(ours: dict[str, Any], expected: dict[str, Any], *, changed: Path) -> None:
    """Equal in every bit; the head may be left out where it is the embedding. Something differs from the base."""
    import torch

    if "lm_head.weight" not in ours:
        embedding = next(name for name in ours if name.endswith(("embed_tokens.weight", "wte.weight")))
        assert torch.equal(expected.pop("lm_head.weight"), expected[embedding])
    assert set(ours) == set(expected)
    bits = {name: value.view(torch.int16) for name, value in expected.items()}
    assert [name for name, value in ours.items() if not torch.equal(value.view(torch.int16), bits[name])] == []
    base = _merged(changed)
    assert [name for name, value in base.items() if not torch.equal(value, ours[name])]


def _assert_equal(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    import torch

    unequal = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert unequal == []
    assert set(theirs) - set(ours) <= {"lm_head.weight"}  # which tied models don't store


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "trained biases"])
def test_equals_peft_bit_for_bit(llama: Path, tiny: Path, variant: str, tmp_path: Path) -> None:
    adapter = save_adapter(llama, tmp_path / "adapter", tiny, **VARIANTS[variant])
    merge_adapter(llama, adapter, tmp_path / "out", "bfloat16")
    _assert_equal(_merged(tmp_path / "out"), peft_merge(llama, adapter))


@pytest.mark.parametrize("variant", ["r8 on all linear layers", "dora", "trained biases"])
def test_equals_peft_on_a_sharded_tied_base(tied_qwen2: Path, tiny: Path, variant: str, tmp_path: Path) -> None:
    assert len(list(tied_qwen2.glob("*.safetensors"))) >= 3
    adapter = save_adapter(tied_qwen2, tmp_path / "adapter", tiny, **VARIANTS[variant])
    merge_adapter(tied_qwen2, adapter, tmp_path / "out", "bfloat16")
    ours = _merged(tmp_path / "out")
    assert "lm_head.weight" not in ours
    _assert_equal(ours, peft_merge(tied_qwen2, adapter))


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_change_of_one_side_parts_tied_embeddings(
    tied_qwen2: Path, tiny: Path, target: str, whole: bool, tmp_path: Path
) -> None:
    """The merged model gives the logits of the adapter on its base; merging in place would change both sides."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    options = {"target_modules": ["q_proj"], "modules_to_save": [target]} if whole else {"target_modules": [target]}
    adapter = save_adapter(tied_qwen2, tmp_path / "adapter", tiny, r=4, lora_alpha=8, **options)
    merge_adapter(tied_qwen2, adapter, tmp_path / "out", "float32")
    base = AutoModelForCausalLM.from_pretrained(tied_qwen2, dtype=torch.float32)
    ids = torch.arange(40).reshape(2, 20)
    expected = PeftModel.from_pretrained(base, str(adapter))(ids).logits
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert merged.config.tie_word_embeddings is False
    torch.testing.assert_close(merged(ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_where_the_config_does_not_say_the_checkpoint_tells_that_embeddings_are_tied(
    tied_qwen2: Path, tiny: Path, tmp_path: Path
) -> None:
    adapter = save_adapter(tied_qwen2, tmp_path / "adapter", tiny, r=4, target_modules=["embed_tokens"])
    base = shutil.copytree(tied_qwen2, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    del config["tie_word_embeddings"]
    (base / "config.json").write_text(json.dumps(config))
    merge_adapter(base, adapter, tmp_path / "out", "bfloat16")
    merged, original = _merged(tmp_path / "out"), _merged(base)
    assert merged["lm_head.weight"].equal(original["model.embed_tokens.weight"])
    assert not merged["model.embed_tokens.weight"].equal(original["model.embed_tokens.weight"])


def test_the_folder_is_what_transformers_loads(tied_qwen2: Path, tiny: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    base = shutil.copytree(tied_qwen2, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32", "_name_or_path": "x/y"}))
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, "temperature": 0.5}))
    adapter = save_adapter(base, tmp_path / "adapter", tiny, r=4, target_modules=["q_proj"])
    merge_adapter(base, adapter, tmp_path / "out", "float16")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["dtype"] == "float16"
    assert not {"torch_dtype", "_name_or_path", "quantization_config"} & set(written)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.float16
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == (tiny / "chat_template.jinja").read_text()
    # the base stops only at its end of text; what was trained ends its turns with the template's token
    stops = GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id
    assert stops == [tokenizer.eos_token_id, 0]


def test_one_template_is_written(llama: Path, tiny: Path, tmp_path: Path) -> None:
    adapter = save_adapter(llama, tmp_path / "adapter", tiny, r=4, target_modules=["q_proj"])
    config = json.loads((adapter / "tokenizer_config.json").read_text())
    (adapter / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "an older one"}))
    merge_adapter(llama, adapter, tmp_path / "out", "bfloat16")
    assert "chat_template" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())


def test_resized_embeddings_set_the_vocabulary(llama: Path, tiny: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    model.resize_token_embeddings(1600)
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    )
    adapted.save_pretrained(str(tmp_path / "adapter"))
    for path in (*tiny.glob("*token*"), tiny / "chat_template.jinja"):
        shutil.copy(path, tmp_path / "adapter")
    merge_adapter(llama, tmp_path / "adapter", tmp_path / "out", "bfloat16")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 1600
    assert _merged(tmp_path / "out")["lm_head.weight"].shape == (1600, 64)


def test_a_lora_without_a_place_is_refused(llama: Path, tiny: Path, tmp_path: Path) -> None:
    adapter = save_adapter(llama, tmp_path / "adapter", tiny, r=4, target_modules=["q_proj"])
    shallow = save_model(random_model("Llama", num_hidden_layers=1), tmp_path / "shallow", tiny)
    with pytest.raises(ExportError, match=r"2 tensors of the adapter have no place .*layers\.1\.self_attn\.q_proj"):
        merge_adapter(shallow, adapter, tmp_path / "out", "bfloat16")


def test_another_base_is_refused(llama: Path, tiny: Path, tmp_path: Path) -> None:
    adapter = save_adapter(llama, tmp_path / "adapter", tiny, r=4, target_modules=["down_proj"])
    wide = save_model(random_model("Llama", intermediate_size=128), tmp_path / "wide", tiny)
    with pytest.raises(ExportError, match=r"shape \(64, 96\), the base has \(64, 128\)"):
        merge_adapter(wide, adapter, tmp_path / "out", "bfloat16")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base weights"),
        ({"target_parameters": ["experts.down_proj"]}, "uses target_parameters"),
        ({"r": 5}, "gives it the rank 5"),
        ({"use_dora": True}, "does not fit use_dora=True"),
        ({"peft_type": "IA3"}, "is a IA3; only LoRA"),
    ],
)
def test_adapters_that_would_be_merged_wrongly_are_refused(
    llama: Path, tiny: Path, setting: dict[str, Any], message: str, tmp_path: Path
) -> None:
    adapter = save_adapter(llama, tmp_path / "adapter", tiny, r=4, target_modules=["q_proj"])
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **setting}))
    with pytest.raises(ExportError, match=message):
        merge_adapter(llama, adapter, tmp_path / "out", "bfloat16")


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [(1e6, "float16", "999424, too large for float16"), (float("nan"), "bfloat16", "the training diverged")],
)
def test_values_that_do_not_fit_name_the_tensor(
    llama: Path, value: float, dtype: str, message: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(llama, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=rf"model\.layers\.1\.mlp\.up_proj\.weight holds .*{message}"):
        copy_model(model, tmp_path / "out", dtype)


def test_a_full_fine_tune_is_copied_in_the_dtype(tied_qwen2: Path, tmp_path: Path) -> None:
    copy_model(tied_qwen2, tmp_path / "out", "bfloat16")
    _assert_equal(_merged(tmp_path / "out"), _merged(tied_qwen2))


def test_a_base_cut_short_is_refused(llama: Path, tmp_path: Path) -> None:
    model = shutil.copytree(llama, tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ExportError, match="the file is cut short"):
        copy_model(model, tmp_path / "out", "bfloat16")
