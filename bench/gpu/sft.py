"""Supervised tokens a second and peak memory on a GPU: fastft, plain TRL and the usual Unsloth notebook, in one run.

    python bench/gpu/sft.py --size 8b                  about 9 minutes; prints its table last
    python bench/gpu/sft.py --size 1b --out            also writes bench/results/gpu_1b.json and .md
    python bench/gpu/sft.py --size smoke               on a CPU, in minutes: shows that all of it runs

  A  TRL + PEFT + bitsandbytes as their documentation shows: padded batches of 8, checkpointing on
  B  the usual Unsloth notebook: batch 2, accumulation 4, r 16, checkpointing "unsloth", adamw_8bit, each step logged
  C  fastft with its defaults, from the recipe on
  P  A with TRL's packing: what of the difference is packing
  U  C without packing;  H  C on 16-bit weights: their losses beside C's

Each arm trains two sets of rows: `chat` (log-normal lengths) and `full` (every row as long as may be). Then the order
goes on with P, U and H while there is time: an arm that would overrun `--minutes` is left out and named. Needs no
network and no files but these; shared/gpu/README.md says how to bring the libraries to a machine without one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from bench.driver import Column, Record, emit, failures, finish, ratio, run_arms, run_child, say, table, told_ratio
from bench.materials import Lengths, Size

ARMS = {
    "A": "plain TRL", "B": "notebook", "C": "fastft", "P": "plain TRL, packed", "U": "fastft, unpacked",
    "H": "fastft, 16-bit",
}  # fmt: skip
SIZES = {
    "smoke": Size(hidden=128, intermediate=256, layers=2, heads=2, kv_heads=1, vocabulary=8192),
    "1b": Size(hidden=2048, intermediate=8192, layers=16, heads=32, kv_heads=8, vocabulary=128256),
    "8b": Size(hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8, vocabulary=128256, tied=False),
}
MAX_LENGTH = 2048
ROWS = {"smoke": (96, 64), "1b": (24_000, 6_000), "8b": (8_000, 2_000)}  # of the sets chat and full
TARGETS = {"chat": {"B": 2.0, "A": 4.0}, "full": {"B": 1.3}}  # issue 6, supervised tokens/s of C
COLUMNS = (
    Column("supervised_per_s", "supervised tokens/s"),
    Column("real_per_s", "tokens/s"),
    Column("useful_share", "useful share", "{:.3f}".format),
    Column("fed_per_micro_batch", "tokens a micro-batch"),
    Column("documents_per_step", "documents a step", "{:.1f}".format),
    Column("step_p50_s", "step p50 (s)", "{:.3f}".format),
    Column("step_p95_s", "p95", "{:.3f}".format),
    Column("mfu", "MFU of measured rate", "{:.1%}".format),
    Column("mfu_datasheet", "of datasheet", "{:.1%}".format),
    Column("peak_bytes", "allocated (GiB)", lambda n: f"{n / 2**30:.2f}"),
    Column("reserved_bytes", "reserved (GiB)", lambda n: f"{n / 2**30:.2f}"),
    Column("planned_bytes", "plan (GiB)", lambda n: f"{n / 2**30:.2f}"),
    Column("to_first_step_s", "to first step (s)", "{:.0f}".format),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1b")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of it; arms beyond that are left out")
    parser.add_argument("--seconds", type=float, default=25.0, help="measured time of the set chat; full has half")
    parser.add_argument("--order", default="ABCCBAPUH")
    parser.add_argument("--out", action="store_true", help="write bench/results/gpu_SIZE.json and .md")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rate", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rate:
        _measure_rate()
    elif options.arm or options.prepare:
        _child(options)
    else:
        _all(options)


def _child(options: argparse.Namespace) -> None:
    from bench import arms
    from bench.sft import prepare, run_arm

    work, smoke = arms.Work(options.work), options.size == "smoke"
    chat, full = ROWS[options.size]
    if options.prepare:
        longest = 256 if smoke else MAX_LENGTH
        sets = {
            "chat": (Lengths(longest // 8, 0.9, longest), chat),
            "full": (Lengths(longest, 0.0, longest), full),
        }
        facts = {"max_length": longest, "learning_rate": 2e-4, "epochs": 1}
        prepare(work, SIZES[options.size], sets, facts, None, four_bit=options.size == "8b")
        return
    plain: Any = arms.PlainTransformers if smoke else arms.PlainTrl
    make: dict[str, Any] = {
        "A": plain,
        "P": lambda work: arms.PlainTrl(work, packing=True),
        "B": arms.Notebook,
        "C": arms.Fastft,
        "U": lambda work: arms.Fastft(work, {"training": {"packing": False}}),
        "H": lambda work: arms.Fastft(work, {"model": {"load_in_4bit": False, "load_in_16bit": True}}),
    }
    seconds = {"chat": options.seconds, "full": options.seconds / 2}
    if options.arm in "PUH":
        del seconds["full"]
    run_arm(make[options.arm], work, seconds, warm_up=2 if smoke else 5, after=False)


def _all(options: argparse.Namespace) -> None:
    from bench.sft import prepare_apart, without_lists

    started = time.monotonic()
    deadline = started + 60 * options.minutes
    order = options.order.replace("P", "") if options.size == "smoke" else options.order
    order = order.replace("H", "") if options.size == "8b" else order  # stored as NF4 there, no 16-bit weights
    with tempfile.TemporaryDirectory() as name:
        folder, script = Path(name), Path(__file__)
        (rate,) = run_child([sys.executable, str(script), "--rate"], folder / "rate.log", 120)
        say(f"the card: {rate}")
        given = ["--size", options.size, "--work", name, "--seconds", str(options.seconds)]
        prepared = prepare_apart(script, given, folder)
        say(f"model and rows made {time.monotonic() - started:.0f} s after the start")
        records = run_arms(script, order, given, folder / "logs", deadline=deadline)
        _add_mfu(records, prepared, rate, options.size)
    records = [{"arm": "", "turn": 0, **record} for record in prepared] + records
    name = f"gpu_{options.size}" if options.out else None
    finish(name, "\n".join(_told(records, rate)), card=rate, records=without_lists(records))


def _measure_rate() -> None:
    """TFLOP/s of a large bf16 product on this card, the best of several spans: what MFU is a share of."""
    import torch

    if not torch.cuda.is_available():
        emit(tflops=None, name="CPU")
        return
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(8):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(20):
            torch.mm(a, b)
        torch.cuda.synchronize()
        best = max(best, 20 * 2 * 8192**3 / (time.perf_counter() - started) / 1e12)
    emit(tflops=round(best, 1), name=torch.cuda.get_device_name(), capability=torch.cuda.get_device_capability())


def _add_mfu(records: list[Record], prepared: list[Record], rate: Record, size: str) -> None:
    """Model FLOPs (what is recomputed doesn't count) a second over the card's rate, into the records."""
    from fastft.planning.cards import find_card

    card = find_card(rate.get("name", ""))
    squares = {record["set"]: record["mean_square"] for record in prepared if "mean_square" in record}
    for record in records:
        if "real_per_s" in record and rate.get("tflops"):
            flops = flops_per_token(SIZES[size], squares[record["set"]]) * record["real_per_s"] / 1e12
            record["mfu"] = flops / rate["tflops"]
            record["mfu_datasheet"] = flops / card.tflops if card else None


def flops_per_token(size: Size, mean_length: float) -> float:
    """Of forward and backward over a frozen base: 4 (layers + head) + 3 of attention (shared/performance.md).

    `mean_length` is that of the document a token stands in: sum of squared lengths over sum of lengths.
    """
    head_dim = size.hidden // size.heads
    attention = size.hidden * head_dim * (2 * size.heads + 2 * size.kv_heads)
    layers = size.layers * (attention + 3 * size.hidden * size.intermediate)
    looked_at = 4 * size.layers * size.heads * head_dim * (mean_length + 1) / 2
    return 4 * (layers + size.vocabulary * size.hidden) + 3 * looked_at


def _told(records: list[Record], rate: Record) -> list[str]:
    from bench.sft import chosen_by_fastft, curves, parity

    card = f"{rate['name']}, {rate['tflops']} TFLOP/s measured in bf16" if rate.get("tflops") else "no GPU"
    lines = [f"## {card}\n", *parity(records, "A"), "", *failures(records)]
    for name in ("chat", "full"):
        rows = next(record for record in records if record.get("set") == name and "rows" in record)
        head = (
            f"{name}: median {rows['median_length']:.0f} tokens, {rows['supervised'] / rows['tokens']:.0%} supervised"
        )
        lines += ["", head, "", table(records, COLUMNS, ARMS, set=name), ""]
        for baseline, target in TARGETS[name].items():
            if found := ratio(records, "supervised_per_s", "C", baseline, set=name):
                lines.append(f"- {name}, supervised tokens/s, {told_ratio(found)}; target {target}")
    return [*lines, "", *_against_plan(records), *chosen_by_fastft(records, "C"), *curves(records, "A")]


def _against_plan(records: list[Record]) -> list[str]:
    """Of fastft's arms: what was reserved at the peak against what `fastft check` had said. Target 5 %, never above."""
    lines = []
    for record in records:
        if record.get("planned_bytes") and record.get("reserved_bytes"):
            used, plan = record["reserved_bytes"], record["planned_bytes"]
            context = max(0, record["card_bytes"] - used)
            lines.append(
                f"- memory, {record['arm']} {record['set']}: plan {plan / 2**30:.2f} GiB, peak reserved "
                f"{used / 2**30:.2f} and the context's {context / 2**30:.2f}: {(used + context) / plan - 1:+.1%} of it"
            )
    return lines


if __name__ == "__main__":
    main()
