"""How fast chat rows become token ids and labels: fastft's data stage against TRL's own preparation.

    python bench/data/prepare.py [--rows 50000] [--tokenizer DIR] [--out]

Both read the same generated JSONL (one to four exchanges a row), render it with the tokenizer's own chat template and
end with ids and a mask of what is learned. Each runs in a process of its own; memory is its peak above that of the
interpreter with the same packages imported. Each turn starts without a cache; "again" is fastft on unchanged data. The
last table says what padded batches of 8 and packs of 2,048 would feed of these rows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from bench.driver import ROOT, Column, emit, failures, finish, ratio, run_arms, table, told_ratio

ARMS = {"F": "fastft", "R": "fastft again", "T": "TRL"}
COLUMNS = (
    Column("tokens_per_s", "tokens/s"),
    Column("seconds", "seconds", "{:.1f}".format),
    Column("tokens", "tokens"),
    Column("memory", "memory (GB)", lambda n: f"{n / 1e9:.2f}"),
)
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
    used = memory() - before
    return {
        "seconds": seconds, "tokens": part.tokens, "supervised": part.supervised, "memory": used,
        "shares": useful_shares(data.train.lengths()),
    }  # fmt: skip


def useful_shares(lengths: list[int]) -> dict[str, float]:
    """What of the places fed holds a token: padded batches by chance, grouped by length, packed. Counted, not timed."""
    from fastft.data.packing import pack_lengths
    from fastft.trainers.lengths import grouped_order

    def padded(order: list[int], batch: int) -> float:
        batches = [[lengths[row] for row in order[at : at + batch]] for at in range(0, len(order), batch)]
        return sum(lengths) / sum(max(rows) * len(rows) for rows in batches)

    by_chance = random.Random(0).sample(range(len(lengths)), len(lengths))
    return {
        "padded batches of 8": padded(by_chance, 8),
        "grouped by length, 8": padded(grouped_order(lengths, 8, 0), 8),
        "packed to 2,048": pack_lengths(lengths, 2048).efficiency,
    }


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


def child(options: argparse.Namespace) -> None:
    cache = options.work / ("kept" if options.arm == "R" else f"cache-{os.getpid()}")
    os.environ |= {"XDG_CACHE_HOME": str(cache), "HF_HOME": str(cache)}
    rows = options.work / "rows.jsonl"
    if options.arm == "R":
        fastft_arm(rows, options.tokenizer)
    found = (trl_arm if options.arm == "T" else fastft_arm)(rows, options.tokenizer)
    emit(tokens_per_s=found["tokens"] / found["seconds"], **found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--tokenizer", type=Path, default=ROOT.parent / "shared" / "tokenizers" / "qwen2.5")
    parser.add_argument("--order", default="FTTFR")
    parser.add_argument("--out", action="store_true", help="write bench/results/data_prepare.json and .md")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        child(options)
        return
    with tempfile.TemporaryDirectory() as name:
        write_rows(Path(name) / "rows.jsonl", options.rows)
        given = ["--work", name, "--tokenizer", str(options.tokenizer)]
        records = run_arms(Path(__file__), options.order, given, Path(name) / "logs")
    lines = [table(records, COLUMNS, ARMS), ""]
    lines += [f"- tokens/s, {told_ratio(found)}" for arm in "FR" if (found := ratio(records, "tokens_per_s", arm, "T"))]
    shares = next((record["shares"] for record in records if "shares" in record), {})
    lines += ["", "Useful share of what is fed: " + ", ".join(f"{how} {share:.3f}" for how, share in shares.items())]
    finish("data_prepare" if options.out else None, "\n".join([*lines, *failures(records)]), records=records)


if __name__ == "__main__":
    main()
