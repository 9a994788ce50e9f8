"""A loss that is no number stops training before a checkpoint of it is written, and the rows are named."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fastft.data.conversation import Example
from fastft.errors import ModelError, TrainingError
from fastft.finite import rows_of
from tests.short_runs import recipe_of, write_chats


def test_rows_are_found_in_a_packed_and_in_a_padded_batch() -> None:
    import torch

    examples = [Example([n, n + 1, n + 2], [-100, n + 1, n + 2], f"rows.jsonl:{n}") for n in range(5)]
    packed = {
        "input_ids": torch.tensor([[1, 2, 3, 4, 5, 6]]),
        "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]]),
    }
    assert rows_of(packed, examples) == ["rows.jsonl:1", "rows.jsonl:4"]
    padded = {
        "chosen_input_ids": torch.tensor([[2, 3, 4, 0], [9, 9, 9, 9]]),
        "chosen_attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
    }
    assert rows_of(padded, examples) == ["rows.jsonl:2"]


@pytest.mark.slow
def test_training_stops_names_the_rows_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight becomes infinite after step 3, as it does where a learning rate is far too high."""
    import fastft
    import fastft.progress

    whole = fastft.progress.progress_callback

    def spoiling(*args: Any, **options: Any) -> Any:
        callback = whole(*args, **options)

        def on_step_begin(args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ARG001
            if state.global_step == 3:
                next(p for n, p in model.named_parameters() if "lora_B" in n).data.fill_(float("inf"))

        callback.on_step_begin = on_step_begin
        return callback

    monkeypatch.setattr(fastft.progress, "progress_callback", spoiling)
    recipe = recipe_of(write_chats(tmp_path / "chats.jsonl"), training={"max_steps": 6, "save_steps": 1})
    with pytest.raises(TrainingError, match=r"the loss is nan at or shortly before step 4, in a batch of") as caught:
        fastft.train(recipe, output_dir=tmp_path / "run", console=Console(file=io.StringIO()))
    assert "chats.jsonl:" in caught.value.message
    assert "from step 3" in caught.value.hint
    assert (tmp_path / "run" / "bad_batches" / "step-4.safetensors").is_file()
    assert not (tmp_path / "run" / "checkpoints" / "checkpoint-4").exists()

    from fastft.replaying import describe, replay

    again = replay(tmp_path / "run", 4)
    assert again.checkpoint is not None
    assert again.checkpoint.name == "checkpoint-3"
    assert 0 < again.loss < 20  # the rows are sound: it was the weights
    assert again.norm > 0
    assert all("chats.jsonl:" in row for row in again.rows)
    assert len(again.rows) == 4
    assert "with checkpoint 3" in describe(again)
    with pytest.raises(ModelError, match=r"no batch of step 3 was kept in .*: kept are those of the steps 4"):
        replay(tmp_path / "run", 3)
