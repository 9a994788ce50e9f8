"""The packaged model as it is shipped: small, finite, right about its world, unable to do the quickstart's task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from fastft.tiny.build import load
from fastft.tiny.quickstart_data import rows
from fastft.tiny.score import exact, greedy_answers, heldout
from fastft.tiny.skills import SKILLS
from fastft.tiny.tokenizer import END, VOCAB_SIZE
from fastft.tiny.world import Messages, World


@pytest.fixture(scope="module")
def answer(tiny: Path):
    model, tokenizer = load(tiny), Tokenizer.from_file(str(tiny / "tokenizer.json"))
    return lambda prompts: greedy_answers(model, tokenizer, prompts)


def test_folder_is_whole_and_small(tiny: Path) -> None:
    assert sorted(path.name for path in tiny.iterdir()) == [
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert sum(path.stat().st_size for path in tiny.iterdir()) <= 8_000_000


def test_stop_and_pad_tokens_agree(tiny: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    generation = json.loads((tiny / "generation_config.json").read_text())
    tokens = json.loads((tiny / "tokenizer_config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"], config["bos_token_id"]) == (2, 0, None)
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (2, 0)
    assert (tokens["eos_token"], tokens["pad_token"], tokens["bos_token"]) == (END, "<|endoftext|>", None)
    assert config["vocab_size"] == VOCAB_SIZE


def test_weights_are_finite_and_fit_for_nf4_and_k_quants(tiny: Path) -> None:
    from safetensors import safe_open

    with safe_open(tiny / "model.safetensors", "pt") as weights:
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118 (not a dict)
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    matrices = [tensor for tensor in tensors.values() if tensor.ndim == 2]
    assert len(matrices) == 4 * 7 + 1
    assert all(tensor.shape[0] >= 64 and tensor.shape[1] % 256 == 0 for tensor in matrices)


@pytest.mark.slow
def test_answers_its_heldout_world(answer) -> None:
    world = World.from_seed(0)
    found = {skill: exact(heldout(world, skill, 20, seed=1), answer) for skill in SKILLS}
    assert sum(found.values()) / len(found) >= 0.9, found
    assert min(found.values()) >= 0.6, found


@pytest.mark.slow
def test_cannot_do_the_quickstart_task(answer) -> None:
    assert exact(rows("quickstart_heldout"), answer) <= 0.1


@pytest.mark.parametrize("greeting", ["Hello!", "Hi", "Who are you?"])
def test_greets_and_stops(answer, greeting: str) -> None:
    prompt: Messages = [{"role": "user", "content": greeting}]
    (text,) = answer([prompt])
    assert text.endswith(END)
    assert text.count(END) == 1
