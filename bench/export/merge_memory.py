"""Peak memory of merging an adapter into a model of Llama 3.2 1B's shape, through the real export process.

    python bench/export/merge_memory.py
    python bench/export/merge_memory.py --change embeddings --gguf q4_k_m

What counts is the export process's largest resident memory (VmHWM in /proc/PID/status) less that of a process that
has only imported the same libraries; it may exceed the largest tensor by 1 GB. Resident memory holds private pages
(RssAnon) and pages of mapped files (RssFile), which are mostly the libraries' code: the merge maps no weights, it reads
them into memory of its own, so nothing of it hides in the page cache.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click

from fastft.exporters import make_exports
from fastft.exporters.source import Trained
from fastft.exporters.weights import TensorSpec, write_sharded
from fastft.model_files import TINY, resolve_model
from fastft.recipe.export_section import ExportSection

RANK = 16
LAYERS, WIDTH, FFN, KEYS, VOCABULARY = 16, 2048, 8192, 512, 128_256
SHARD_BYTES = 10**9
_IMPORTS = "import torch, safetensors, transformers, fastft.exporters.worker, fastft.exporters.merged"
_EMBEDDING = "model.embed_tokens.weight"


def projections() -> list[tuple[str, int, int]]:
    attention = [("q_proj", WIDTH), ("k_proj", KEYS), ("v_proj", KEYS), ("o_proj", WIDTH)]
    found = [(f"self_attn.{name}", rows, WIDTH) for name, rows in attention]
    return [*found, ("mlp.gate_proj", FFN, WIDTH), ("mlp.up_proj", FFN, WIDTH), ("mlp.down_proj", WIDTH, FFN)]


def base_specs() -> Iterator[tuple[str, TensorSpec]]:
    yield _EMBEDDING, TensorSpec((VOCABULARY, WIDTH), "BF16")
    for layer in range(LAYERS):
        for name, rows, columns in projections():
            yield f"model.layers.{layer}.{name}.weight", TensorSpec((rows, columns), "BF16")
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{name}.weight", TensorSpec((WIDTH,), "BF16")
    yield "model.norm.weight", TensorSpec((WIDTH,), "BF16")


def adapter_specs(change: str) -> Iterator[tuple[str, TensorSpec]]:
    for layer in range(LAYERS):
        for name, rows, columns in projections():
            key = f"base_model.model.model.layers.{layer}.{name}"
            yield f"{key}.lora_A.weight", TensorSpec((RANK, columns), "F32")
            yield f"{key}.lora_B.weight", TensorSpec((rows, RANK), "F32")
            if change == "dora":
                yield f"{key}.lora_magnitude_vector", TensorSpec((rows,), "F32")
    if change == "embeddings":
        yield f"base_model.model.{_EMBEDDING}", TensorSpec((VOCABULARY, WIDTH), "F32")
    if change == "embedding-lora":
        yield "base_model.model.model.embed_tokens.lora_embedding_A", TensorSpec((RANK, VOCABULARY), "F32")
        yield "base_model.model.model.embed_tokens.lora_embedding_B", TensorSpec((WIDTH, RANK), "F32")


def make(folder: Path, change: str) -> Path:
    """The base, in shards, and an adapter, with random weights; returns the adapter's folder."""
    base, adapter = folder / "base", folder / "adapter"
    tiny = resolve_model(TINY, weights=False)
    for place in (base, adapter):
        shutil.copytree(tiny, place, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((tiny / "config.json").read_text()) | {
        "hidden_size": WIDTH, "intermediate_size": FFN, "num_hidden_layers": LAYERS, "head_dim": 64,
        "num_attention_heads": WIDTH // 64, "num_key_value_heads": KEYS // 64, "vocab_size": VOCABULARY,
        "tie_word_embeddings": True,
    }  # fmt: skip
    (base / "config.json").write_text(json.dumps(config))
    lora = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "base_model_name_or_path": str(base)}
    (adapter / "adapter_config.json").write_text(json.dumps({**lora, "use_dora": change == "dora"}))
    _write_random(base, dict(base_specs()), SHARD_BYTES)
    _write_random(adapter, dict(adapter_specs(change)), 10**12)
    (adapter / "model.safetensors").rename(adapter / "adapter_model.safetensors")
    return adapter


def _write_random(folder: Path, specs: dict[str, TensorSpec], shard_bytes: int) -> None:
    import torch

    from fastft.exporters.weights import torch_dtype

    torch.manual_seed(0)

    def tensor(name: str) -> torch.Tensor:
        return torch.randn(specs[name].shape).mul_(0.02).to(torch_dtype(specs[name].dtype))

    write_sharded(folder, specs, tensor, shard_bytes)


class Peaks:
    """Largest VmHWM, RssAnon and RssFile, in bytes, of this process's children while it is entered."""

    def __init__(self) -> None:
        self.values = dict.fromkeys(("VmHWM", "RssAnon", "RssFile"), 0)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            for task in Path("/proc/self/task").iterdir():
                for child in _read(task / "children").split():
                    self._note(_read(Path("/proc") / child / "status"))

    def _note(self, status: str) -> None:
        for line in status.splitlines():
            key, _, rest = line.partition(":")
            if key in self.values:
                self.values[key] = max(self.values[key], int(rest.split()[0]) << 10)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # the process ended


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


@click.command()
@click.option("--change", type=click.Choice(["lora", "dora", "embeddings", "embedding-lora"]), default="lora")
@click.option("--gguf", "kinds", multiple=True, help="Also convert and quantise to this type.")
def main(change: str, kinds: tuple[str, ...]) -> None:
    """Merge, and report memory; `embeddings` are trained whole (modules_to_save), in fp32."""
    with Peaks() as baseline:
        subprocess.run([sys.executable, "-c", f"{_IMPORTS}; import time; time.sleep(0.2)"], check=True)
    with tempfile.TemporaryDirectory() as name:
        adapter = make(Path(name), change)
        largest = max(spec.nbytes for specs in (base_specs(), adapter_specs(change)) for _, spec in specs)
        click.echo(f"imports alone: {_gb(baseline.values['VmHWM'])}; largest tensor on disk: {_gb(largest)}")
        for formats, kind in (("merged_16bit", "f16"), *(("gguf", kind) for kind in kinds)):
            section = ExportSection.model_validate({"formats": formats, "quantization_method": kind, "verify": False})
            exports = Path(name) / "exports"
            exports.mkdir(exist_ok=True)
            started = time.perf_counter()
            with Peaks() as peaks:
                (out,) = make_exports(Trained.of_adapter(adapter, exports), section, exports / "export.log")
            beyond = peaks.values["VmHWM"] - baseline.values["VmHWM"]
            click.echo(
                f"{out.name:13} {time.perf_counter() - started:5.1f} s  peak {_gb(peaks.values['VmHWM'])} (private "
                f"{_gb(peaks.values['RssAnon'])}, mapped files {_gb(peaks.values['RssFile'])}), {_gb(beyond)} beyond "
                f"the imports, {_gb(beyond - largest)} beyond those and the largest tensor"
            )


if __name__ == "__main__":
    main()
