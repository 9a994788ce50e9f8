"""How fast chat rows become token ids and labels: fastft's data stage against TRL's own preparation.

uv run python bench/prepare_data.py [--rows 50000] [--tokenizer DIR] [--out bench/results/prepare_data.json]

Both read the same generated JSONL (one to four exchanges a row), render it with the tokenizer's own chat template and
end with ids and a mask of what is learned. Each runs in a process of its own; memory is its peak above that of the
interpreter with the same packages imported. fastft runs twice: without a cache, and again on unchanged data.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORDS = (ROOT / "README.md").read_text(encoding="utf-8").split()


def write_rows(path: Path, rows: int) -> None:
    """Seeded conversations; answers are log-normal in length, some 150 tokens at the median."""
    rng = random.Random(0)

    def text(median: int) -> str:
        return " ".join(rng.choices(WORDS, k=max(3, int(rng.lognormvariate(0, 0.7) * median))))

    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            messages = [{"role": "system", "content": text(12)}] if rng.random() < 0.3 else []
            for _ in range(rng.choice((1, 1, 2, 3, 4))):
                messages += [{"role": "user", "content": text(25)}, {"role": "assistant", "content": text(80)}]
            file.write(json.dumps({"messages": messages}) + "\n")


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def fastft_arm(path: Path, tokenizer: Path) -> dict[str, Any]:
    from fastft.data.prepare import prepare_data
    from fastft.data.tokenizer import ChatTokenizer
    from fastft.recipe.schema import DataSection

    before, started = memory(), time.perf_counter()
    loaded = ChatTokenizer.load(tokenizer)
    data = prepare_data(DataSection(path=str(path)), loaded, max_length=2048, seed=0)
    seconds = time.perf_counter() - started
    part = data.audit.train
    return {"seconds": seconds, "tokens": part.tokens, "supervised": part.supervised, "memory": memory() - before}


def trl_arm(path: Path, tokenizer: Path) -> dict[str, Any]:
    from datasets import load_dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

    loaded = AutoTokenizer.from_pretrained(tokenizer)
    config = LlamaConfig(
        vocab_size=len(loaded), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = LlamaForCausalLM(config)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder, max_length=2048, assistant_only_loss=True, report_to="none", use_cpu=True
        )
        before, started = memory(), time.perf_counter()
        rows = load_dataset("json", data_files=str(path), split="train", cache_dir=folder)
        trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=loaded)
        seconds = time.perf_counter() - started
        made: Any = trainer.train_dataset
        lengths = [len(ids) for ids in made["input_ids"]]
    return {"seconds": seconds, "tokens": sum(lengths), "memory": memory() - before}


def run(arm: str, path: Path, tokenizer: Path, cache: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--arm", arm, "--data", str(path), "--tokenizer", str(tokenizer)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "HF_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found = json.loads(done.stdout.splitlines()[-1])
    return {**found, "tokens_per_second": round(found["tokens"] / found["seconds"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--tokenizer", type=Path, default=ROOT.parent / "shared" / "tokenizers" / "qwen2.5")
    parser.add_argument("--arm", choices=("fastft", "trl"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.arm:
        arm = fastft_arm if options.arm == "fastft" else trl_arm
        print(json.dumps(arm(options.data, options.tokenizer)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder) / "rows.jsonl", Path(folder) / "cache"
        write_rows(path, options.rows)
        arms = {name: run(kind, path, options.tokenizer, cache) for name, kind in
                (("fastft", "fastft"), ("fastft again", "fastft"), ("trl", "trl"))}  # fmt: skip
    for name, found in arms.items():
        print(f"{name:14}" + "  ".join(f"{key} {value:,.1f}" for key, value in found.items()))
    speed = arms["fastft"]["tokens_per_second"] / arms["trl"]["tokens_per_second"]
    print(f"{speed:.1f} times TRL's tokens a second")
    if options.out:
        result = {
            "command": f"python bench/prepare_data.py --rows {options.rows}",
            "arms": arms,
            "times": round(speed, 1),
        }
        result |= {"date": str(datetime.now(UTC).date()), "machine": f"{platform.machine()}, {os.cpu_count()} threads"}
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
