"""Real seeds to spoil: the packaged model, a LoRA on it, and a finished run with exports, made without torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.harness import ROOT
from tests.fuzz.mutations import json_text, spoil_bytes, spoil_value

TINY = ROOT / "fastft" / "tiny" / "model"
_LINEAR = {"self_attn.q_proj": (256, 256), "self_attn.v_proj": (256, 128), "mlp.down_proj": (512, 256)}
_RANK = 4


def make_adapter(folder: Path) -> Path:
    """A LoRA of PEFT's layout on the packaged model, with tokenizer and template."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    weights = {}
    for layer in range(4):
        for name, (inner, outer) in _LINEAR.items():
            key = f"base_model.model.model.layers.{layer}.{name}"
            weights[f"{key}.lora_A.weight"] = np.full((_RANK, inner), 0.01, np.float32)
            weights[f"{key}.lora_B.weight"] = np.full((outer, _RANK), 0.001, np.float32)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "base_model_name_or_path": "fastft/tiny", "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "lora_alpha": 8, "lora_dropout": 0.0, "modules_to_save": None, "peft_type": "LORA",
        "r": _RANK, "rank_pattern": {}, "alpha_pattern": {}, "revision": None, "task_type": "CAUSAL_LM",
        "target_modules": [name.rpartition(".")[2] for name in _LINEAR], "use_dora": False, "use_rslora": False,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    for path in TINY.iterdir():
        if path.name.startswith(("tokenizer", "chat_template", "generation")):
            shutil.copy(path, folder)
    return folder


def make_run(folder: Path) -> Path:
    """A finished run of that adapter with an export, and everything that training leaves beside it."""
    from fastft.base_identity import identify
    from fastft.files import folder_hashes

    make_adapter(folder / "adapter")
    base = identify("fastft/tiny").as_dict()
    arguments = {"seed": 1, "learning_rate": 1e-4, "per_device_train_batch_size": 2, "max_steps": 3}
    files = {f"adapter/{name}": digest for name, digest in folder_hashes(folder / "adapter").items()}
    model = {"model_name": "fastft/tiny", "revision": None, "base": base}
    passed = {"passed": True, "reference": "the model", "checks": []}
    for name in ("adapter", "merged_16bit"):
        export = folder / "exports" / name
        shutil.copytree(folder / "adapter" if name == "adapter" else TINY, export)
        made = {"name": name, "format": name, "made_from": {"dtype": "bfloat16", "sha256": "0"}}
        _write(export / "export.json", {**made, "quantization": None, "files": folder_hashes(export)})
        _write(export / "verification.json", passed)
    (folder / "recipe.yaml").write_text(
        "model:\n  model_name: fastft/tiny\nmethod: sft\ndata:\n  path: data.jsonl\n"
        "lora: {r: 4}\nexport:\n  formats: [adapter]\noutput_dir: run\n"
    )
    turns = [{"role": "user", "content": "Say 1."}, {"role": "assistant", "content": "It is 1."}]
    (folder / "heldout.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": n, "loss": 1.5}) + "\n" for n in range(1, 4)))
    _write(folder / "start.json", {"arguments": arguments, "base": base})
    _write(folder / "audit.json", {"examples_sha256": "0", "fingerprint": "1", "train": {"examples": 3}})
    _write(folder / "fast_path.json", {"lost": []})
    _write(folder / "heartbeat.json", {"process": 1, "host": "here", "state": "finished", "step": 3, "steps": 3,
                                       "time": "2026-11-21T22:00:00+00:00"})  # fmt: skip
    told = {"loss": 1.0, "perplexity": 2.7, "supervised_tokens": 9, "exact_share": None, "metrics": {}}
    _write(folder / "evaluation.json", {"before": told, "after": told})
    _write(folder / "manifest.json", {
        "fastft_manifest": 1, "model": model, "method": "sft", "files": files, "arguments": arguments,
        "lineage": [{"run": "run", "method": "sft", "from": {"model": "fastft/tiny"}}], "data": {"max_length": 128},
        "evaluation": {"before": told, "after": told}, "seeds": {"training": 1}, "versions": {"fastft": "0"},
        "training": {"steps": 3, "epochs": 1.0},
    })  # fmt: skip
    return folder


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2))


def spoil_file(path: Path, random: Random) -> None:
    """Replace a file by a spoiled one: of other bytes, of other values where it is JSON, or of another kind."""
    way = random.randrange(20)
    if way == 0:
        path.unlink()
        return
    if way == 1:
        path.unlink()
        path.mkdir()
        return
    if way == 2:
        path.unlink()
        path.symlink_to(random.choice(("/dev/zero", path.name, "nowhere", "/")))
        return
    data = path.read_bytes()
    try:
        spoiled = _spoil_values(path, data, random) if way < 14 else None
    except (ValueError, LookupError, RecursionError):  # it was spoiled before
        spoiled = None
    path.unlink()
    path.write_bytes(spoil_bytes(data, random) if spoiled is None else spoiled)


def _spoil_values(path: Path, data: bytes, random: Random) -> bytes | None:
    if path.suffix == ".safetensors":
        return spoil_header(data, random)
    if path.suffix not in (".json", ".jsonl"):
        return None
    lines = data.decode().splitlines() if path.suffix == ".jsonl" else [data.decode()]
    spoiled = [json_text(spoil_value(json.loads(line), random)) for line in lines]
    return "\n".join(spoiled).encode("utf-8", "surrogatepass")


def spoil_header(data: bytes, random: Random) -> bytes:
    """A safetensors file with a spoiled header, of a right or a wrong length."""
    length = int.from_bytes(data[:8], "little")
    header = json_text(spoil_value(json.loads(data[8 : 8 + length]), random, most=2)).encode("utf-8", "surrogatepass")
    claimed = random.choice((len(header),) * 6 + (0, 7, 2**63, 2**64 - 1, 10**9, len(header) + 5, len(data) * 2))
    return claimed.to_bytes(8, "little") + header + data[8 + length :]
