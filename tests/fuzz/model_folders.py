"""Model and adapter folders with a spoiled file, by all that reads them without loading weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.corpora import TINY, make_adapter, spoil_file
from tests.fuzz.mutations import json_text, spoil_bytes, spoil_value

_TEMPLATES = (
    "", "{{", "{% for %}", "{{ messages[0].content }}", "{{ 1/0 }}", "{{ raise_exception('x' * 99999) }}",
    "{% for i in range(10**9) %}x{% endfor %}", "{{ 'x' * 10**10 }}", "{{ ''.__class__.__mro__ }}", "\0", "\ud7ff",
    "{% include 'x' %}", "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}", "{{ messages | tojson }}",
    "{{ undefined.a.b }}", "{{ strftime_now(1) }}", "{% set x = namespace() %}{{ x }}", "{" * 5000,
    "{% if " + "(" * 3000 + "1" + ")" * 3000 + " %}{% endif %}",
)  # fmt: skip


def prepare(folder: Path) -> dict[str, Path]:
    """A model folder, the same in two shards with an index, and an adapter."""
    import fastft.recipe.load
    import fastft.targets  # noqa: F401

    plain, shards = folder / "plain", folder / "shards"
    shutil.copytree(TINY, plain)
    shutil.copytree(TINY, shards)
    _split(shards)
    (shards / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    (shards / "chat_template.json").write_text(
        json.dumps({"chat_template": (shards / "chat_template.jinja").read_text()})
    )
    (shards / "chat_template.jinja").unlink()
    return {"plain": plain, "shards": shards, "adapter": make_adapter(folder / "adapter")}


def _split(folder: Path) -> None:
    from safetensors.numpy import save_file

    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    import numpy as np

    tensors = {f"model.layers.{n}.mlp.up_proj.weight": np.zeros((8, 8), np.float32) for n in range(4)}
    halves = [dict(list(tensors.items())[:2]), dict(list(tensors.items())[2:])]
    for name, half in zip(names, halves, strict=True):
        save_file(half, folder / name)
    index = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "model.safetensors").unlink()


def case(state: dict[str, Path], random: Random, folder: Path, names: list[str]) -> None:
    kind = random.choice(list(state))
    made = folder / kind
    shutil.copytree(state[kind], made)
    names += [str(made), "chat template", "data.chat_template", "lora.", "model.max_seq_length"]
    names += ["The model ", "base model", "model.model_name"]  # a base whose name was spoiled
    for _ in range(random.choice((1, 1, 1, 2))):
        _spoil(made, random)
    _read(kind, made, random)


def _spoil(made: Path, random: Random) -> None:
    path = random.choice(sorted(path for path in made.iterdir() if path.is_file() and path.name != "README.md"))
    if path.suffix == ".jinja" and random.random() < 0.6:
        path.write_text(random.choice(_TEMPLATES), encoding="utf-8", errors="surrogatepass")
    elif path.name == "tokenizer.json" and random.random() < 0.8:
        _spoil_tokenizer(path, random)
    else:
        spoil_file(path, random)


def _spoil_tokenizer(path: Path, random: Random) -> None:
    """Most of a tokenizer is its vocabulary; the rest is where a spoiled value does something else."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        value: dict[str, Any] = json.loads(text)
        part = random.choice([key for key in value if key != "model"] + ["model"])
        inner = {key: item for key, item in value["model"].items() if key not in ("vocab", "merges")}
    except (ValueError, LookupError, RecursionError, AttributeError):  # spoiled before
        path.write_bytes(spoil_bytes(path.read_bytes(), random))
        return
    if part == "model":
        spoiled = spoil_value(inner, random)
        value["model"] = {**value["model"], **(spoiled if isinstance(spoiled, dict) else {"type": spoiled})}
    else:
        value[part] = spoil_value(value[part], random)
    path.write_text(json_text(value), encoding="utf-8", errors="surrogatepass")


def _read(kind: str, made: Path, random: Random) -> None:
    """What `check`, `chat`, `export` and `eval` read of a folder before weights are loaded."""
    from fastft.base_identity import identify_folder
    from fastft.data.tokenizer import ChatTokenizer
    from fastft.errors import FastftError
    from fastft.exporters.base_model import open_weights, resolve_base
    from fastft.exporters.lora import Adapter
    from fastft.model_fit import fit_to_model
    from fastft.planning.shape import read_shape
    from fastft.recipe.load import load_recipe
    from fastft.targets import find_target

    readers: list[Any] = [lambda: ChatTokenizer.load(made), lambda: find_target(made)]
    if kind == "adapter":
        named = {"model": {"model_name": "fastft/tiny"}, "data": {"path": "a/b"}}
        given = {**named, "lora": {"adapter_name_or_path": str(made)}}
        readers += [lambda: Adapter(made), lambda: _fit_to_adapter(load_recipe(given))]
    else:
        recipe = {"model": {"model_name": str(made)}, "data": {"path": "a/b"}, "lora": {"target_modules": ["q_proj"]}}
        readers += [lambda: fit_to_model(load_recipe(recipe), made), lambda: read_shape(made)]
        readers += [lambda: open_weights(made), lambda: resolve_base(str(made)), lambda: identify_folder("x", made)]
    random.shuffle(readers)
    caught: FastftError | None = None
    for read in readers:
        try:
            read()
        except FastftError as error:
            caught = error
    if caught is not None:
        raise caught


def _fit_to_adapter(recipe: Any) -> None:
    from fastft.lora_start import fit_to_adapter

    fit_to_adapter(recipe)
