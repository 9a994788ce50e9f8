"""A base model and an adapter of random weights for the export benchmarks, written tensor by tensor.

So the writing process stays small, and what is measured is the export's memory alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from bench.materials import Size
from fastft.exporters.weights import TensorSpec, torch_dtype, write_sharded
from fastft.model_files import TINY, resolve_model

RANK = 16


def base_specs(size: Size) -> Iterator[tuple[str, TensorSpec]]:
    yield "model.embed_tokens.weight", TensorSpec((size.vocabulary, size.hidden), "BF16")
    for layer in range(size.layers):
        for name, rows, columns in projections(size):
            yield f"model.layers.{layer}.{name}.weight", TensorSpec((rows, columns), "BF16")
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{name}.weight", TensorSpec((size.hidden,), "BF16")
    yield "model.norm.weight", TensorSpec((size.hidden,), "BF16")
    if not size.tied:
        yield "lm_head.weight", TensorSpec((size.vocabulary, size.hidden), "BF16")


def projections(size: Size) -> list[tuple[str, int, int]]:
    """(name, rows, columns) of a layer's."""
    wide, keys = size.hidden, size.hidden // size.heads * size.kv_heads
    attention = [("q_proj", wide), ("k_proj", keys), ("v_proj", keys), ("o_proj", wide)]
    found = [(f"self_attn.{name}", rows, wide) for name, rows in attention]
    found += [(f"mlp.{name}", size.intermediate, wide) for name in ("gate_proj", "up_proj")]
    return [*found, ("mlp.down_proj", wide, size.intermediate)]


def adapter_specs(size: Size) -> Iterator[tuple[str, TensorSpec]]:
    for layer in range(size.layers):
        for name, rows, columns in projections(size):
            key = f"base_model.model.model.layers.{layer}.{name}"
            yield f"{key}.lora_A.weight", TensorSpec((RANK, columns), "F32")
            yield f"{key}.lora_B.weight", TensorSpec((rows, RANK), "F32")


def make(folder: Path, size: Size) -> tuple[Path, Path]:
    """(base, adapter): folders as a training leaves them, with fastft/tiny's tokenizer."""
    import torch

    base, adapter = folder / "base", folder / "adapter"
    tiny = resolve_model(TINY, weights=False)
    for place in (base, adapter):
        shutil.copytree(tiny, place, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((tiny / "config.json").read_text())
    config |= {
        "hidden_size": size.hidden, "intermediate_size": size.intermediate, "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads, "num_key_value_heads": size.kv_heads, "vocab_size": size.vocabulary,
        "head_dim": size.hidden // size.heads, "tie_word_embeddings": size.tied,
    }  # fmt: skip
    (base / "config.json").write_text(json.dumps(config))
    projected = [name.rpartition(".")[2] for name, _, _ in projections(size)]
    lora = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "target_modules": projected,
        "base_model_name_or_path": str(base),
    }  # fmt: skip
    (adapter / "adapter_config.json").write_text(json.dumps(lora))
    torch.manual_seed(0)
    for place, specs in ((base, dict(base_specs(size))), (adapter, dict(adapter_specs(size)))):
        write_sharded(
            place, specs, lambda name, t=specs: torch.randn(t[name].shape).mul_(0.02).to(torch_dtype(t[name].dtype))
        )
    (adapter / "model.safetensors").rename(adapter / "adapter_model.safetensors")
    return base, adapter
