"""How far faithful GGUF exports are from the merged model, type by type: the figures behind fastft/proof/limits.py.

    python bench/export/proof_figures.py runs/quickstart --out bench/results/proof_figures.md

Every type is exported into a temporary place and compared as `fastft verify` does, with attention in 32 bits, and once
more with llama.cpp's default, which computes it in 16. "held-out" and "built-in" are the largest difference of a
log-probability on answers to held-out and to built-in prompts, in nats, of tokens of at least 5 %.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from fastft.errors import ModelError
from fastft.exporters import make_exports
from fastft.exporters.source import Trained
from fastft.exporters.tensor_types import SCHEMES
from fastft.llamacpp import GGUFModel
from fastft.proof.gguf import LlamaCpp
from fastft.proof.limits import limits_for
from fastft.proof.measure import answer_limit, measure_against
from fastft.proof.probes import MAX_TOKENS
from fastft.proof.reference import Merged, Reference, reference_for
from fastft.proof.scores import Comparison, Difference
from fastft.recipe.export_section import ExportSection
from fastft.run import Run
from fastft.verification import SAMPLES

HEADINGS = ("type", "attention", "held-out", "built-in", "KL mean", "KL largest", "likeliest token", "perplexity")


def exported(run: Path, place: Path) -> Trained:
    """What the run trained, with all its exports in `place`."""
    trained = replace(Trained.of_run(Run.open(run)), exports=place)
    asked = {"formats": ["merged_16bit", "gguf"], "quantization_method": list(SCHEMES), "verify": False}
    make_exports(trained, ExportSection.model_validate(asked), place / "export.log")
    return trained


def rows(trained: Trained) -> Iterator[tuple[str, ...]]:
    """A row of the table for the merged model, and two for each type of GGUF."""
    reference = reference_for(trained, SAMPLES)
    if isinstance(reference.merged, ModelError):
        raise reference.merged
    yield row("merged_16bit", "transformers", reference.merged.comparison)
    for kind in SCHEMES:
        for attention, exact in (("32 bits", True), ("default", False)):
            file = trained.exports / f"gguf-{kind}" / f"model-{kind}.gguf"
            yield row(kind, attention, compared(reference, reference.merged, file, kind, exact=exact))


def compared(reference: Reference, merged: Merged, file: Path, kind: str, *, exact: bool) -> Comparison:
    comparison = Comparison(tie=limits_for(kind, reference_dtype=merged.measured.dtype).tie)
    context = MAX_TOKENS + answer_limit(reference.probes)
    with GGUFModel(file, n_ctx=context, exact=exact) as model:
        measure_against(merged.measured, LlamaCpp(model), reference.probes, comparison, dtype=kind)
    return comparison


def row(name: str, attention: str, found: Comparison) -> tuple[str, ...]:
    before, after = found.perplexities
    distances = (size(found.largest), size(found.largest_elsewhere), found.kl_mean, found.kl_max)
    shares = (f"{found.top1:.2%}", f"{after / before - 1:+.2%}")
    return (name, attention, *(f"{value:.1g}" for value in distances), *shares)


def size(difference: Difference | None) -> float:
    return difference.size if difference else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of a finished run")
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = [*rows(exported(options.run, Path(place)))]
    lines = [" | ".join(cells) for cells in (HEADINGS, ["---"] * len(HEADINGS), *found)]
    facts = {
        "command": f"python bench/export/proof_figures.py {options.run}",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores",
    }
    table = "".join(f"| {line} |\n" for line in lines)
    sys.stdout.write(table)
    if options.out:
        told = "".join(f"- {key}: {value}\n" for key, value in facts.items())
        options.out.write_text(f"# Figures of the proofs\n\n{told}\n{table}", encoding="utf-8")


if __name__ == "__main__":
    main()
