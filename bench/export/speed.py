"""Seconds and peak memory from an adapter to GGUF files: fastft's export against the same by hand.

    python bench/export/speed.py [--size 1b|small] [--out]

  F  fastft's export process: merge, convert, q8_0 and q4_k_m, made in one call as `fastft export` does; no verification
  H  by hand: PEFT merges, llama.cpp's convert_hf_to_gguf.py makes bf16, llama-quantize makes each type

Random weights with the shape of Llama 3.2 1B. llama-quantize is built from the packaged sources as the tests build it
(tests/exporters/llama_quantize.py; minutes, once). Unsloth's own path is no arm: on a CPU its save_pretrained_gguf
refuses 4-bit models, and it downloads llama.cpp. The proof of an export runs both models and is timed apart, by
`fastft verify`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from bench.driver import Column, Record, emit, failures, finish, ratio, run_arms, say, table, told_ratio
from bench.materials import Size

ARMS = {"F": "fastft", "H": "by hand"}
TYPES = ("q8_0", "q4_k_m")
SIZES = {
    "small": Size(hidden=1024, intermediate=4096, layers=6, heads=16, kv_heads=4, vocabulary=32_000),
    "1b": Size(hidden=2048, intermediate=8192, layers=16, heads=32, kv_heads=8, vocabulary=128_256),
}
COLUMNS = (
    Column("total_s", "all (s)", "{:.1f}".format),
    Column("after_merge_s", "from the merged model on (s)", "{:.1f}".format),
    Column("merge_s", "merge (s)", "{:.1f}".format),
    Column("convert_s", "convert (s)", "{:.1f}".format),
    Column("q8_0_s", "q8_0 (s)", "{:.1f}".format),
    Column("q4_k_m_s", "q4_k_m (s)", "{:.1f}".format),
    Column("cpu_s", "CPU seconds", "{:.1f}".format),
    Column("peak_bytes", "peak memory (GB)", lambda n: f"{n / 1e9:.2f}"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1b")
    parser.add_argument("--order", default="FHHF")
    parser.add_argument("--out", action="store_true", help="write bench/results/export.json and .md")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        _child(options)
        return
    from tests.exporters.llama_quantize import llama_quantize

    llama_quantize()
    with tempfile.TemporaryDirectory() as name:
        from bench.export.models import make

        base, _ = make(Path(name), SIZES[options.size])
        stored = sum(path.stat().st_size for path in base.glob("*.safetensors"))
        say(f"{stored / 2e9:.2f}B parameters written")
        records = run_arms(Path(__file__), options.order, ["--work", name], Path(name) / "logs")
    finish("export" if options.out else None, "\n".join(_told(records, stored)), records=records)


def _child(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        started = time.perf_counter()
        arm = _fastft if options.arm == "F" else _by_hand
        found = arm(options.work, Path(name))
        total = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    emit(
        total_s=total, after_merge_s=total - found["merge_s"], cpu_s=used.ru_utime + used.ru_stime,
        peak_bytes=used.ru_maxrss * 1024, **found,
    )  # fmt: skip


def _by_hand(work: Path, out: Path) -> dict[str, float]:
    from bench.export.by_hand import to_gguf
    from tests.exporters.llama_quantize import llama_quantize

    return to_gguf(work / "base", work / "adapter", out, TYPES, llama_quantize())


def _fastft(work: Path, out: Path) -> dict[str, float]:
    from fastft.exporters import make_exports
    from fastft.exporters.source import Trained
    from fastft.recipe.schema import ExportSection

    asked: dict[str, Any] = {"formats": "gguf", "quantization_method": list(TYPES), "verify": False}
    clock = _Stages()
    trained = Trained.of_adapter(work / "adapter", out)
    paths = make_exports(trained, ExportSection.model_validate(asked), out / "log", on_progress=clock.note)
    told = {path.name: json.loads((path / "export.json").read_text())["seconds"] for path in paths}
    return {**clock.seconds(), "told": told}  # type: ignore[dict-item]


class _Stages:
    """When the export process told of each stage for the first time; a stage ends where the next begins."""

    _NAMES = {"merge": "merge_s", "convert to GGUF": "convert_s"} | {f"quantize gguf-{t}": f"{t}_s" for t in TYPES}

    def __init__(self) -> None:
        self.begun: dict[str, float] = {"start": time.perf_counter()}

    def note(self, stage: str, done: int, total: int) -> None:  # noqa: ARG002
        self.begun.setdefault(stage, time.perf_counter())

    def seconds(self) -> dict[str, float]:
        """What comes before the first of them, as starting the process, is part of the merge."""
        marks = [*self.begun.items(), ("end", time.perf_counter())]
        found = {
            self._NAMES[name]: end - begin
            for (name, begin), (_, end) in itertools.pairwise(marks)
            if name in self._NAMES
        }
        return {**found, "merge_s": found["merge_s"] + self.begun["merge"] - self.begun["start"]}


def _told(records: list[Record], stored: int) -> list[str]:
    lines = [f"{stored / 2e9:.2f}B parameters, {' and '.join(TYPES)}\n", table(records, COLUMNS, ARMS), ""]
    for key, what in (("total_s", "with the merge"), ("after_merge_s", "from the merged model on")):
        if found := ratio(records, key, "F", "H"):
            lines.append(f"- seconds {what}, {told_ratio(found)}; target at most 1")
    return [*lines, *failures(records)]


if __name__ == "__main__":
    main()
