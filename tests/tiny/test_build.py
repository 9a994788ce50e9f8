"""Building the tiny model again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fastft.tiny.build import make_tokenizer, save_model
from fastft.tiny.pretrain import Plan, batches, new_model, pretrain
from fastft.tiny.world import World


@pytest.mark.slow
def test_short_pretraining_is_byte_identical(tmp_path: Path) -> None:
    world = World.from_seed(5)
    tokenizer = make_tokenizer(world, 5)
    written = []
    for name in ("first", "second"):
        model = new_model(tokenizer, 5)
        pretrain(model, tokenizer, world, 5, replace(Plan(), steps=4, tokens=512))
        save_model(model, tmp_path / name)
        written.append((tmp_path / name / "model.safetensors").read_bytes())
    assert written[0] == written[1]


def test_batches_hold_about_the_tokens_asked_for() -> None:
    world = World.from_seed(0)
    stream = batches(make_tokenizer(world, 0), world, 0, 1024)
    for _, batch in zip(range(50), stream, strict=False):
        assert len(batch) * max(len(ids) for ids, _ in batch) <= 1024
