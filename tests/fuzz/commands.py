"""Commands that need no weights, on a spoiled recipe, data file, model folder, adapter or run."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
from pathlib import Path
from random import Random

from tests.fuzz.corpora import TINY, make_run, spoil_file
from tests.fuzz.forked import RefusedError, require_clear, run_forked, settle

ANY_NAME = (RefusedError,)  # looked for in all that a command prints
_RECIPE = """\
model: {model_name: fastft/tiny, max_seq_length: 128}
lora: {r: 4}
data: {path: data.jsonl, eval_split: 2}
training: {max_steps: 2, per_device_train_batch_size: 2, gradient_accumulation_steps: 1}
export: {formats: [adapter]}
"""
_COMMANDS = (
    ["check"], ["check", "--json"], ["plan"], ["plan", "--json"], ["preview"], ["preview", "--packed"],
    ["preview", "--row", "3"], ["preview", "--html", "page.html"], ["train", "--dry-run"],
)  # fmt: skip
_OF_RUN = ("manifest.json", "recipe.yaml", "adapter/adapter_config.json", "adapter/adapter_model.safetensors",
           "exports/merged_16bit/export.json", "exports/merged_16bit/config.json",
           "exports/merged_16bit/tokenizer.json", "exports/merged_16bit/verification.json")  # fmt: skip


def prepare(folder: Path) -> dict[str, Path]:
    """A recipe with its data, a model folder and a finished run. Each command is run once, for what it imports."""
    from fastft.cli import main

    rows = [[{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n}"}] for n in range(12)]
    (folder / "data.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(_RECIPE)
    shutil.copytree(TINY, folder / "model")
    make_run(folder / "run")
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()):
        for command, *options in _COMMANDS:
            with contextlib.suppress(SystemExit):
                main([command, "recipe.yaml", *options], prog_name="fastft")
    (folder / "page.html").unlink()
    settle()
    return {"seed": folder}


def case(state: dict[str, Path], random: Random, folder: Path, names: list[str]) -> None:
    _ = names
    for name in ("recipe.yaml", "data.jsonl"):
        shutil.copy(state["seed"] / name, folder)
    kind = random.choice((_recipe, _data, _data, _model, _model, _run))
    overrides, named = kind(state["seed"], random, folder)
    command, *options = random.choice(_COMMANDS)
    require_clear(*run_forked([command, "recipe.yaml", *overrides, *options], folder), named)


def _recipe(seed: Path, random: Random, folder: Path) -> tuple[list[str], list[str]]:
    """Spoiled as a file of bytes, or as values, for JSON is YAML too."""
    import yaml

    _ = seed
    path = folder / "recipe.yaml"
    if random.random() < 0.7:
        as_json = folder / "values.json"
        as_json.write_text(json.dumps(yaml.safe_load(_RECIPE)))
        spoil_file(as_json, random)
        path.unlink()
        if as_json.is_symlink() or as_json.exists():
            as_json.rename(path)
    else:
        spoil_file(path, random)
    return [], ["recipe.yaml", "model", "data", "training", "lora", "export"]


def _data(seed: Path, random: Random, folder: Path) -> tuple[list[str], list[str]]:
    _ = seed
    path = folder / random.choice(
        ("data.jsonl", "data.jsonl", "data.json", "data.csv", "data.parquet", "data.jsonl.gz")
    )
    _write_rows(folder / "data.jsonl", path)
    spoil_file(path, random)
    options = [[], [], ["data.on_error=skip"], ["data.format=messages"], [f"data.eval_split={path}"]]
    return [f"data.path={path}", *random.choice(options)], ["data"]


def _write_rows(source: Path, path: Path) -> None:
    lines = source.read_text().splitlines()
    if path.suffix == ".json":
        path.write_text(f"[{','.join(lines)}]")
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(source.read_bytes()))
    elif path.suffix == ".csv":
        path.write_text("instruction,output\n" + "".join(f"Say {n},{n}\n" for n in range(12)))
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist([json.loads(line) for line in lines]), path)


def _model(seed: Path, random: Random, folder: Path) -> tuple[list[str], list[str]]:
    made = folder / "model"
    shutil.copytree(seed / "model", made)
    _spoil_one(made, [path.name for path in made.iterdir() if path.suffix != ".md"], random)
    return [f"model.model_name={made}"], [str(made), "chat template", "model.", "the exports asked for"]


def _run(seed: Path, random: Random, folder: Path) -> tuple[list[str], list[str]]:
    """As the model to begin with, or as the adapter to go on with."""
    made = folder / "run"
    shutil.copytree(seed / "run", made)
    _spoil_one(made, list(_OF_RUN), random)
    key = random.choice(("model.model_name", "lora.adapter_name_or_path"))
    return [f"{key}={made}"], [str(made), "lora.", "model."]


def _spoil_one(folder: Path, files: list[str], random: Random) -> None:
    spoil_file(folder / random.choice(sorted(files)), random)
