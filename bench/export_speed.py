"""Time, peak memory and disk of exporting a random Llama of a given depth: merge, convert, quantise.

    python bench/export_speed.py --layers 8 --width 2048

The model is written tensor by tensor, so that this script's own memory stays small; the worker's peak is what counts.
"""

from __future__ import annotations

import json
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from fastft.exporters import make_exports
from fastft.exporters.source import Trained
from fastft.exporters.weights import TensorSpec, write_sharded
from fastft.model_files import TINY, resolve_model
from fastft.recipe.schema import ExportSection

RANK = 16


def base_specs(layers: int, width: int, vocabulary: int) -> Iterator[tuple[str, TensorSpec]]:
    def matrix(rows: int, columns: int) -> TensorSpec:
        return TensorSpec((rows, columns), "BF16")

    yield "model.embed_tokens.weight", matrix(vocabulary, width)
    for layer in range(layers):
        for name, rows, columns in projections(width):
            yield f"model.layers.{layer}.{name}.weight", matrix(rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{name}.weight", TensorSpec((width,), "BF16")
    yield "model.norm.weight", TensorSpec((width,), "BF16")
    yield "lm_head.weight", matrix(vocabulary, width)


def projections(width: int) -> list[tuple[str, int, int]]:
    attention = [("q_proj", width), ("k_proj", width // 4), ("v_proj", width // 4), ("o_proj", width)]
    found = [(f"self_attn.{name}", rows, width) for name, rows in attention]
    found += [(f"mlp.{name}", 4 * width, width) for name in ("gate_proj", "up_proj")]
    return [*found, ("mlp.down_proj", width, 4 * width)]


def adapter_specs(layers: int, width: int) -> Iterator[tuple[str, TensorSpec]]:
    for layer in range(layers):
        for name, rows, columns in projections(width):
            key = f"base_model.model.model.layers.{layer}.{name}"
            yield f"{key}.lora_A.weight", TensorSpec((RANK, columns), "F32")
            yield f"{key}.lora_B.weight", TensorSpec((rows, RANK), "F32")


def make(folder: Path, layers: int, width: int, vocabulary: int) -> tuple[Path, dict[str, TensorSpec]]:
    """A base model and an adapter with random weights; returns the adapter's folder and the base's tensors."""
    import torch

    from fastft.exporters.weights import torch_dtype

    base, adapter = folder / "base", folder / "adapter"
    tiny = resolve_model(TINY, weights=False)
    for place in (base, adapter):
        shutil.copytree(tiny, place, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((tiny / "config.json").read_text())
    config |= {
        "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers, "head_dim": 64,
        "num_attention_heads": width // 64, "num_key_value_heads": width // 256, "vocab_size": vocabulary,
        "tie_word_embeddings": False,
    }  # fmt: skip
    (base / "config.json").write_text(json.dumps(config))
    lora = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "base_model_name_or_path": str(base)}
    (adapter / "adapter_config.json").write_text(json.dumps(lora))
    torch.manual_seed(0)
    specs = dict(base_specs(layers, width, vocabulary))
    for place, tensors in ((base, specs), (adapter, dict(adapter_specs(layers, width)))):
        write_sharded(
            place, tensors, lambda name, t=tensors: torch.randn(t[name].shape).mul_(0.02).to(torch_dtype(t[name].dtype))
        )
    (adapter / "model.safetensors").rename(adapter / "adapter_model.safetensors")
    return adapter, specs


@click.command()
@click.option("--layers", default=8)
@click.option("--width", default=2048)
@click.option("--vocabulary", default=32_000)
def main(layers: int, width: int, vocabulary: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        adapter, specs = make(Path(name), layers, width, vocabulary)
        stored = sum(spec.nbytes for spec in specs.values())
        largest = max(spec.nbytes for spec in specs.values())
        click.echo(f"{stored / 2e9:.2f}B parameters, {stored / 1e9:.2f} GB, largest tensor {largest / 1e9:.2f} GB")
        for formats, types in (("merged_16bit", "q8_0"), ("gguf", "q8_0"), ("gguf", "q4_k_m")):
            section = ExportSection.model_validate({"formats": formats, "quantization_method": types})
            started = time.perf_counter()
            exports = Path(name) / "out"
            exports.mkdir(exist_ok=True)
            (out,) = make_exports(Trained.of_adapter(adapter, exports), section, exports / "export.log")
            seconds = time.perf_counter() - started
            size = sum(path.stat().st_size for path in out.iterdir())
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
            click.echo(
                f"{out.name:14} {seconds:6.1f} s  {size / 1e9:5.2f} GB  worker's peak so far {peak / 1e9:.2f} GB"
            )


if __name__ == "__main__":
    main()
