"""Supervised tokens a second of fastft on a CPU, against transformers.Trainer and Unsloth's CPU backend.

    python bench/cpu/sft.py --quick          one small model, short rows, each arm once: 2 to 3 minutes
    python bench/cpu/sft.py --out            three models, about 15 minutes; writes bench/results/cpu_sft.json and .md
    python bench/cpu/sft.py --size small --order ABCCBA --rows 320

Chat-like rows with log-normal lengths, 45 % of the tokens supervised; NF4 base, LoRA r 16, the same start; one epoch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from bench.driver import ROOT, Column, Record, failures, finish, ratio, run_arms, say, table, told_ratio
from bench.materials import Lengths, Size

ARMS = {"A": "transformers.Trainer", "B": "Unsloth notebook", "C": "fastft"}
SIZES = {
    "small": Size(hidden=256, intermediate=768, layers=4, heads=4, kv_heads=2, vocabulary=8192),
    "deep": Size(hidden=512, intermediate=1536, layers=8, heads=8, kv_heads=4, vocabulary=8192),
    "qwen-vocabulary": Size(hidden=256, intermediate=768, layers=4, heads=4, kv_heads=2, vocabulary=151936),
}
ROWS = {"small": 400, "deep": 240, "qwen-vocabulary": 200}
LENGTHS = Lengths(median=160, spread=0.8, longest=1024)
QUICK = Lengths(median=96, spread=0.8, longest=512)
QUICK_ROWS = 120
TOKENIZERS = {"qwen-vocabulary": ROOT.parent / "shared" / "tokenizers" / "qwen2.5"}
TARGETS = {"A": 2.5, "B": 2.0}  # issue 6: supervised tokens/s of fastft, times
WARM_UP = 3
COLUMNS = (
    Column("supervised_per_s", "supervised tokens/s"),
    Column("supervised_per_cpu_s", "… a CPU second"),
    Column("real_per_s", "tokens/s"),
    Column("useful_share", "useful share", "{:.3f}".format),
    Column("documents_per_step", "documents a step", "{:.1f}".format),
    Column("step_p50_s", "step p50 (s)", "{:.2f}".format),
    Column("step_p95_s", "p95", "{:.2f}".format),
    Column("peak_bytes", "peak memory (GB)", lambda n: f"{n / 1e9:.2f}"),
    Column("to_first_step_s", "to first step (s)", "{:.0f}".format),
    Column("loss_after", "held-out loss after", "{:.3f}".format),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, action="append", help="which models; default all, --quick the first")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--order", help="default ABCCBA, --quick ABC")
    parser.add_argument("--rows", type=int, help="rows of the one epoch")
    parser.add_argument("--out", action="store_true", help="write bench/results/cpu_sft.json and .md")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = options.size or (["small"] if options.quick else list(SIZES))
    if options.arm or options.prepare:
        _child(options, sizes[0])
        return
    records: list[Record] = []
    told: list[str] = []
    for size in sizes:
        if size in TOKENIZERS and not TOKENIZERS[size].is_dir():
            say(f"{size} is left out: {TOKENIZERS[size]} is absent")
            continue
        rows = options.rows or (QUICK_ROWS if options.quick else ROWS[size])
        with tempfile.TemporaryDirectory() as folder:
            found = _measure(size, rows, options, Path(folder))
        records += [{"size": size, **record} for record in found]
        told += _told(size, found)
    from bench.sft import without_lists

    name = "cpu_sft" if options.out else None
    finish(name, "\n".join(told), records=without_lists(records))


def _child(options: argparse.Namespace, size: str) -> None:
    from bench import arms
    from bench.sft import prepare, run_arm

    work = arms.Work(options.work)
    if options.prepare:
        # 1e-3 is what fastft would choose for LoRA on a model this small, and what its quickstart uses
        lengths = QUICK if options.quick else LENGTHS
        facts = {"max_length": lengths.longest, "learning_rate": 1e-3, "epochs": 1}
        fixed = 16 if options.quick else 64
        prepare(work, SIZES[size], {"chat": (lengths, options.rows)}, facts, TOKENIZERS.get(size), fixed=fixed)
        return
    make = {"A": arms.PlainTransformers, "B": arms.Notebook, "C": arms.Fastft}[options.arm]
    run_arm(make, work, {"chat": 1e9}, warm_up=WARM_UP, after=True)


def _measure(size: str, rows: int, given: argparse.Namespace, folder: Path) -> list[Record]:
    from bench.sft import prepare_apart

    script, started = Path(__file__), time.monotonic()
    options = ["--size", size, "--rows", str(rows), "--work", str(folder), *(["--quick"] if given.quick else [])]
    order = given.order or ("ABC" if given.quick else "ABCCBA")
    prepared = prepare_apart(script, options, folder)
    say(f"{size}: model and rows made in {time.monotonic() - started:.0f} s")
    facts = [{"arm": "", "turn": 0, **record} for record in prepared]
    return facts + run_arms(script, order, options, folder / "logs")


def _told(size: str, records: list[Record]) -> list[str]:
    from bench.sft import chosen_by_fastft, curves, parity

    rows = next(r for r in records if r.get("set") == "chat")
    prepared = next(r for r in records if r.get("set") == "prepared")
    lines = [
        f"## {size}: {prepared['parameters'] / 1e6:.0f}M parameters, {rows['rows']} rows, {rows['tokens']:,} tokens, "
        f"{rows['supervised'] / rows['tokens']:.0%} supervised\n",
        *parity(records, "A"), "", table(records, COLUMNS, ARMS, set="chat"), "",
    ]  # fmt: skip
    for baseline, target in TARGETS.items():
        for key in ("supervised_per_s", "supervised_per_cpu_s"):
            if found := ratio(records, key, "C", baseline, set="chat"):
                unit = "supervised tokens/s" if key == "supervised_per_s" else "supervised tokens a CPU second"
                lines.append(f"- {unit}, {told_ratio(found)}; target {target}")
    lines += ["", *chosen_by_fastft(records, "C"), *curves(records, "A"), *failures(records), ""]
    return lines


if __name__ == "__main__":
    main()
