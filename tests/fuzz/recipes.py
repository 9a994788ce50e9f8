"""Recipes: spoiled bytes of real ones, spoiled values at every key, bombs, and what YAML allows and nobody writes."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tests.fuzz.harness import ROOT
from tests.fuzz.mutations import DEEP, HUGE, hostile, json_text, spoil_bytes, spoil_value

_LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
_MAPS = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(9))}}}\n" for n in range(1, 30)
)
_BOMBS = (
    _LAUGHS,
    f"{_LAUGHS}model: {{model_name: *a29}}\ndata: {{path: *a29}}\n",
    _MAPS,
    "a: &a [*a]\nmodel: *a\n",
    "model: &m\n  model_name: *m\ndata: *m\n",
    "[" * DEEP + "]" * DEEP,
    "{a: " * 5000 + "}" * 5000,
    "- " * 2000,
    "a:\n" + "".join(" " * n + "a:\n" for n in range(700)),
    "model: " + "x" * 2_000_000,
    "training: {seed: " + "9" * 300_000 + "}",
    "training: {learning_rate: 1" + "0" * 5000 + "}",
    "training: {learning_rate: 0x" + "f" * 50_000 + "}",
    "training: {seed: 0o" + "7" * 50_000 + "}",
    "x" * 2000 + ": 1\n",
    "".join(f"key{n}: {n}\n" for n in range(20_000)),
    "".join(f"- {n}\n" for n in range(20_000)),
    "? {a: 1}\n: 2\n? [1, 2]\n: 3\n",
    "? *a\n: &a 1\n",
    "model: !!python/object/apply:os.system ['touch /tmp/owned']\n",
    "model: !!binary aGVsbG8=\n",
    "training: {seed: !!int '', learning_rate: !!float '', bf16: !!bool '', max_steps: !!int 0x}\n",
    "training: {seed: !!int [1], learning_rate: !!null {a: 1}, output_dir: !!set {a}}\n",
    "data: !!omap [a: 1]\nmodel: !!timestamp 2001-01-01\n",
    "<<: {model: 1}\nmodel: {<<: [1, {model_name: x}]}\n",
    "%YAML 9.9\n---\nmodel: 1\n",
    "%TAG ! tag:x,2000:\n--- !y\nmodel: 1\n",
    "model: 1\n---\nmodel: 2\n",
    "model: |9\n x\n",
    '"\\U0011ffff": 1\n',
    '"\\ud800": "\\udfff"\nmodel: {model_name: "\\ud800"}\n',
    '"\\x1b[2J": "\\x1b]0;x\\x07"\nmodel: {model_name: "\\x1b[31m"}\ndata: {path: "\\e[1m\\n\\r"}\n',
    "null: 1\ntrue: 2\n1.5: 3\n~: 4\n",
    "\t model:\t1\n",
    "model:\r\n  model_name: x\rdata: y\n\x85\u2028\u2029",
)
_OVERRIDES = (
    "", "=", "a", "a.=1", ".a=1", "a.b.c.d.e=1", "training.seed={", "training.seed=*a", "training.seed=&a [*a]",
    "model=1", "model.model_name", "data.path=[[[[", "data.path=[1, {path: x}]", "training=null", "training.seed=1e400",
    "training.seed=" + "9" * 6000, "export.formats=!!x y", "output_dir=\0", "output_dir=\x1b[2J", "lora.r=\ud800",
    "model.model_name=" + "x" * 10_000, "x" * 10_000 + "=1", "data.columns={a: {b: c}}", "rewards=[1]", "rewards.0.a=1",
    "callbacks=[a:b, 1]", "training.loss_type=[1, [2]]", "method=[x]", "method={x: 1}", "evaluation=[]",
)  # fmt: skip


def prepare(folder: Path) -> dict[str, Any]:
    """The texts of all recipes, and their values."""
    import fastft.recipe.load  # noqa: F401 -- the imports are no part of a case

    texts = [path.read_bytes() for path in sorted((ROOT / "recipes").rglob("*.yaml"))]
    assert len(texts) > 10
    values = [yaml.safe_load(text) for text in texts]
    os.chdir(folder)
    return {"texts": texts, "values": [value for value in values if isinstance(value, dict)]}


def case(state: dict[str, Any], random: Random, folder: Path, names: list[str]) -> None:
    from fastft.recipe.load import load_recipe

    path = folder / "recipe.yaml"
    way = random.randrange(10)
    overrides: list[str] = []
    if way < 3:
        path.write_bytes(spoil_bytes(random.choice(state["texts"]), random))
    elif way < 7:
        path.write_text(_written(_spoiled(state, random), random), encoding="utf-8", errors="surrogatepass")
    elif way == 7:
        _write_bomb(path, random)
    elif way == 8:
        path.write_bytes(random.choice(state["texts"]))
        overrides = [_override(random) for _ in range(random.randint(1, 3))]
    else:
        value = _spoiled(state, random)
        names.append("recipe")
        load_recipe(_without_deep(value) if isinstance(value, dict) else {"model": _without_deep(value)})
        return
    names += [path.name, *(("override",) if overrides else ())]
    load_recipe(path, overrides)


def _spoiled(state: dict[str, Any], random: Random) -> Any:
    """A recipe's values with a few places spoiled, a section replaced, or keys that the schema knows set anew."""
    value = random.choice(state["values"])
    if random.random() < 0.5:
        return spoil_value(value, random)
    from fastft.recipe.schema import Recipe

    value = {key: dict(item) if isinstance(item, dict) else item for key, item in value.items()}
    section = random.choice(list(Recipe.model_fields))
    inner = value.get(section)
    if isinstance(inner, dict) and inner and random.random() < 0.8:
        for key in random.sample(list(inner), min(len(inner), 2)):
            inner[key] = hostile(random)
    else:
        value[section] = hostile(random)
    return value


def _written(value: Any, random: Random) -> str:
    """As JSON, which is YAML; or in blocks, where PyYAML can write it."""
    if random.random() < 0.5:
        return json_text(value)
    try:
        return yaml.dump(_without_deep(value), allow_unicode=random.random() < 0.5, sort_keys=False)
    except (yaml.YAMLError, RecursionError):
        return json_text(value)


def _without_deep(value: Any) -> Any:
    """With nestings as deep as Python's own parsers and printers bear."""
    if isinstance(value, dict):
        return {key: _without_deep(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_deep(item) for item in value]
    nested: Any = []
    for _ in range(400 if type(value).__name__ == "Deep" else 0):
        nested = [nested]
    return nested or value


def _write_bomb(path: Path, random: Random) -> None:
    bomb = random.choice(_BOMBS)
    data = bomb.encode("utf-8", "surrogatepass")
    if random.random() < 0.4:
        data = spoil_bytes(data, random)
    encoding = random.choice(("", "", "", "utf-16", "utf-32", "latin-1"))
    path.write_bytes(data.decode("utf-8", "replace").encode(encoding, "replace") if encoding else data)


def _override(random: Random) -> str:
    if random.random() < 0.6:
        return random.choice(_OVERRIDES)
    keys = ("model.model_name", "data.path", "training.learning_rate", "training.seed", "lora.r", "export.formats")
    value = hostile(random)
    return f"{random.choice(keys)}={value if isinstance(value, str) else json_text(value)}"[: HUGE * 2]


assert all(len(bomb) < 3_000_000 for bomb in itertools.chain(_BOMBS))
