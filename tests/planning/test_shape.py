from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastft.planning.shape import Shape, read_shape, shape_of
from tests.exporters.architectures import FAMILIES, SIZES, config_class
from tests.exporters.more_architectures import MORE

LLAMA_8B = Shape(4096, 14336, 32, 32, 8, 128, 128256, tied=False)

# Layers that carry a state along: their sizes aren't read, and a plan says so.
UNREAD = ("falcon-h1", "lfm2", "qwen3-next", "qwen3.5")
KNOWN = {family.name: family for family in (*FAMILIES, *MORE)}


def on_meta(name: str) -> tuple[Any, dict[str, Any]]:
    """The family's model without memory, and its config.json."""
    import torch
    import transformers

    family = KNOWN[name]
    config = config_class(transformers, family.model)(
        **{**SIZES, "vocab_size": 1024, "pad_token_id": None, **family.options}
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return model, json.loads(config.to_json_string(use_diff=False))


def test_counts_of_llama_3_8b() -> None:
    # 8,030,261,248 parameters is what Llama-3.1-8B's checkpoint holds.
    assert LLAMA_8B.parameters == 8_030_261_248
    assert LLAMA_8B.linear == 6_979_321_856
    assert LLAMA_8B.lora(16) == 41_943_040


@pytest.mark.parametrize("name", sorted(KNOWN.keys() - set(UNREAD)))
def test_parameters_of_every_family(name: str) -> None:
    model, config = on_meta(name)
    shape = shape_of(config)
    assert shape is not None
    assert shape.parameters == pytest.approx(sum(p.numel() for p in model.parameters()), rel=0.02)


@pytest.mark.parametrize("name", UNREAD)
def test_what_cant_be_read_is_not_guessed(name: str) -> None:
    assert shape_of(on_meta(name)[1]) is None


@pytest.mark.parametrize("name", ["llama-3", "qwen3", "phi-3", "gemma-3", "mistral", "starcoder2", "gpt-neox"])
def test_lora_on_all_projections_is_what_peft_makes(name: str) -> None:
    from peft import LoraConfig, get_peft_model

    model, config = on_meta(name)
    shape = shape_of(config)
    assert shape is not None
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert shape.lora(8) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("targets", "only"),
    [
        (["q_proj", "v_proj"], None),
        (["self_attn.q_proj", "down_proj"], None),
        (["q_proj"], [1]),
        (r".*\.0\.self_attn\.(q|k)_proj", None),
        (r".*mlp\.down_proj", None),
    ],
)
def test_lora_on_the_recipes_targets_is_what_peft_makes(targets: Any, only: list[int] | None) -> None:
    from peft import LoraConfig, get_peft_model

    model, config = on_meta("llama-3")
    shape = shape_of(config)
    assert shape is not None
    section = LoraConfig(r=8, target_modules=targets, layers_to_transform=only, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, section)
    assert shape.lora(8, targets, only) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_experts_count_whole_and_compute_in_part() -> None:
    shape = Shape(1024, 512, 4, 8, 8, 128, 1000, tied=True, experts=8, active=2)
    attention = 4 * 1024 * 1024
    assert shape.linear == 4 * (attention + 8 * 3 * 1024 * 512)
    assert shape.computed == 4 * (attention + 2 * 3 * 1024 * 512)
    # each expert's update is its own: gate and up are one parameter of transformers 5, whose update has one rank
    assert shape.lora(4, ["down_proj"]) == 4 * 4 * 8 * (512 + 1024)
    assert shape.lora(4, ["up_proj"]) == shape.lora(4, ["gate_proj"]) == 4 * 4 * 8 * (1024 + 2 * 512)


def test_the_text_part_of_a_model_of_images() -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208}  # fmt: skip
    tower = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27}
    shape = shape_of({"model_type": "gemma3", "text_config": text, "vision_config": tower})
    assert shape is not None
    assert shape.tied
    # google/gemma-3-4b-it holds 4,300,079,472 parameters
    assert shape.parameters == pytest.approx(4_300_079_472, rel=0.01)


def test_a_repository_that_is_quantised_already() -> None:
    config: dict[str, Any] = {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "quantization_config": {
            "load_in_4bit": True, "quant_method": "bitsandbytes",
            "llm_int8_skip_modules": ["lm_head", "model.layers.1.mlp", "layers.3.self_attn.q_proj"],
        },
    }  # fmt: skip
    shape = shape_of(config)
    assert shape is not None
    assert 0.515 < shape.stored < 0.517
    assert shape.kept == 3 * 4096 * 14336 + 4096 * 4096


def test_what_the_file_says_in_other_words_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "something", "size": "large"}))
    assert read_shape(tmp_path) is None
