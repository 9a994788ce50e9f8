"""Runs with spoiled files, by all that reads a run before a model is loaded: every command's first part."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.corpora import make_run, spoil_file

_READ = (
    "manifest.json", "start.json", "audit.json", "metrics.jsonl", "heartbeat.json", "recipe.yaml", "heldout.jsonl",
    "evaluation.json", "fast_path.json", "exports/adapter/export.json", "exports/merged_16bit/export.json",
    "exports/merged_16bit/verification.json", "adapter/adapter_config.json",
)  # fmt: skip


def prepare(folder: Path) -> dict[str, Any]:
    """A finished run, and the recipe that it began with."""
    import fastft.evaluating
    import fastft.exporting
    import fastft.recipe.load
    import fastft.replaying
    import fastft.resume  # noqa: F401 -- the imports are no part of a case
    from fastft.recipe.load import load_recipe

    (folder / "data.jsonl").write_text('{"text": "x"}\n')
    os.chdir(folder)
    recipe = {
        "model": {"model_name": "fastft/tiny"},
        "data": {"path": "data.jsonl"},
        "output_dir": "runs/x",
        "lora": {},
    }
    return {"run": make_run(folder / "run"), "recipe": load_recipe(recipe)}


def case(state: dict[str, Any], random: Random, folder: Path, names: list[str]) -> None:
    from fastft.errors import FastftError

    made = folder / "run"
    shutil.copytree(state["run"], made, copy_function=os.link)
    names += [str(made), "export", "model.model_name"]
    if random.random() < 0.3:
        (made / "manifest.json").unlink()  # an unfinished run
    for _ in range(random.choice((1, 1, 2))):
        path = made / random.choice(_READ)
        if path.is_file() and not path.is_symlink():
            spoil_file(path, random)
    caught: FastftError | None = None
    readers = _readers(made, state["recipe"])
    random.shuffle(readers)
    for read in readers:
        try:
            read()
        except FastftError as error:
            caught = error
    if caught is not None:
        raise caught


def _readers(made: Path, recipe: Any) -> list[Any]:
    """What resume, plan, export, verify, chat, eval, serve, replay, a chain's next stage and the report read."""
    from fastft import heartbeat, report
    from fastft.changes import changes_of, require_may
    from fastft.evals.data import run_max_length
    from fastft.evals.results import summaries
    from fastft.exporters.source import Trained
    from fastft.exporting import _section
    from fastft.fastpath.audit import read_fast_path
    from fastft.lora_start import fit_to_adapter
    from fastft.model_files import resolve_model
    from fastft.recipe.load import load_recipe
    from fastft.replaying import replay
    from fastft.resume import run_to_resume, started_with
    from fastft.run import Run
    from fastft.same_data import guard_same_data
    from fastft.serving import find_served
    from fastft.stages import lineage, stage_at
    from fastft.targets import find_target
    from fastft.verification import trained_at

    run = Run(made)
    named = {"model": {"model_name": "fastft/tiny"}, "data": {"path": "a/b"}}
    audit = {"examples_sha256": "0", "fingerprint": "2"}
    return [
        lambda: Run.open(made).trained_manifest(), run.metrics, lambda: run.complete, lambda: started_with(run),
        lambda: Trained.of_run(run).source.fingerprint(), lambda: trained_at(made), lambda: find_target(made),
        lambda: find_served(made), lambda: stage_at(made), lambda: resolve_model(str(made), weights=True),
        lambda: lineage("x", "sft", {"model": str(made)}), lambda: summaries(made),
        lambda: _section(made, {"formats": (), "quantization_method": (), "verify": None}),
        lambda: guard_same_data(run, audit, resumed=True), lambda: require_may(run, changes_of(run, recipe)),
        lambda: run_to_resume(made, []), lambda: replay(run, 3), lambda: run_max_length(run),
        lambda: fit_to_adapter(load_recipe({**named, "lora": {"adapter_name_or_path": str(made)}})),
        lambda: load_recipe({**named, "method": "grpo", "lora": {}, "rewards": [{"run": str(made)}]}),
        lambda: (heartbeat.last_state(made), heartbeat.last_beat(made)), lambda: read_fast_path(run),
        lambda: _shown(report, made), lambda: _probes(run),
    ]  # fmt: skip


def _shown(report: Any, made: Path) -> None:
    """The report of exports, as it is printed."""
    from rich.console import Console

    Console(file=io.StringIO()).print(report.closing(made))


def _probes(run: Any) -> None:
    from fastft.data.tokenizer import ChatTokenizer
    from fastft.model_files import resolve_model
    from fastft.proof.probes import load_probes

    load_probes(run.heldout_path, ChatTokenizer.load(resolve_model("fastft/tiny", weights=False)), 5, 512)
