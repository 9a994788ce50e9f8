"""DPO begins at its reference and resumes to the same bytes; bad data is told before anything loads."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import fastft
from fastft.errors import DatasetError, TrainingError
from fastft.recipe.named_values import names_of
from tests.trainers.preferences import job_on_tiny, pair_data, pair_rows, write


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"load_in_16bit": True, "dtype": "float32"},
        {"load_in_4bit": True},
        {"load_in_4bit": True, "precompute_ref_log_probs": True},
    ],
    ids=["32 bits", "4 bits", "4 bits, precomputed"],
)
def test_the_first_loss_is_ln_2_and_the_reference_costs_no_second_adapter(
    options: dict[str, Any], tmp_path: Path
) -> None:
    from fastft.trainers.dpo import build_trainer
    from fastft.trainers.measuring import measure

    trainer = build_trainer(job_on_tiny(pair_data(tmp_path), tmp_path, **options))
    rows = trainer.train_dataset
    found = measure(trainer, rows.remove_columns([name for name in rows.column_names if name.startswith("ref_")]))
    assert found["loss"] == pytest.approx(math.log(2), abs=1e-6)
    for key in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
        assert found[key] == pytest.approx(0.0, abs=1e-6)
    assert list(trainer.model.peft_config) == ["default"]
    assert ("ref_chosen_logps" in rows.column_names) is ("precompute_ref_log_probs" in options)


@pytest.mark.slow
def test_every_loss_trains(tmp_path: Path) -> None:
    """All 15 in one model; each is measured by its own first steps, which are numbers and change the adapter."""
    from fastft.trainers.dpo import build_trainer

    job = job_on_tiny(pair_data(tmp_path), tmp_path, max_steps=1)
    weights = {name: p.detach().clone() for name, p in job.model.named_parameters() if p.requires_grad}
    for loss in names_of("dpo", "loss_type"):
        arguments = {**job.arguments, "loss_type": loss, "label_smoothing": 0.1}
        trainer = build_trainer(type(job)(job.model, job.tokenizer, job.data, arguments, job.checkpoints))
        trainer.train()
        (logged,) = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert math.isfinite(logged), loss
        changed = [name for name, p in trainer.model.named_parameters() if name in weights and "lora_B" in name]
        assert any(not (trainer.model.get_parameter(name) == weights[name]).all() for name in changed), loss
        for name, value in weights.items():
            trainer.model.get_parameter(name).data.copy_(value)


def _recipe(data: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": {"model_name": "fastft/tiny", "max_seq_length": 64},
        "lora": {"r": 8, "use_gradient_checkpointing": False},
        "data": {"path": str(data), "eval_split": 4},
        "method": "dpo",
        "training": {"max_steps": 6, "save_steps": 3, "per_device_train_batch_size": 4},
        **more,
    }


@pytest.mark.slow
def test_interrupted_and_resumed_ends_at_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fastft.progress

    data, quiet = write(tmp_path / "pairs.jsonl", pair_rows(28)), Console(file=io.StringIO())
    run = fastft.train(_recipe(data), output_dir=tmp_path / "whole", console=quiet)
    whole = fastft.progress.progress_callback

    def interrupting(*args: Any, **kwargs: Any) -> Any:
        callback = whole(*args, **kwargs)

        def on_step_begin(args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG001
            if state.global_step == 5:
                raise KeyboardInterrupt

        callback.on_step_begin = on_step_begin
        return callback

    with monkeypatch.context() as patch:
        patch.setattr(fastft.progress, "progress_callback", interrupting)
        with pytest.raises(TrainingError, match="stopped at step 5 of 6: interrupted"):
            fastft.train(_recipe(data), output_dir=tmp_path / "run", console=quiet)
    resumed = fastft.train(_recipe(data), output_dir=tmp_path / "run", resume=True, console=quiet)
    weights = "adapter/adapter_model.safetensors"
    assert resumed.manifest()["files"][weights] == run.manifest()["files"][weights]
    losses = [[point["loss"] for point in one.metrics() if "loss" in point] for one in (run, resumed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
ANSWER = {"prompt": "p", "completion": "a", "label": True}
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def _conversation(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": "b"}]


# method | rows | part of the message | the one fault, where it is a row's
BAD: list[tuple[str, list[dict[str, Any]], str, str]] = [
    ("dpo", [CHAT], "this method learns from preference pairs", ""),
    ("dpo", [ANSWER], "a set of unpaired preferences, which methods like KTO learn from", ""),
    ("kto", [PAIR], "a set of preference pairs, which methods like DPO learn from", ""),
    ("sft", [PAIR], "a set of preference pairs, and method sft does not tell good answers from bad", ""),
    ("dpo", [PAIR, {"prompt": "p", "chosen": "a"}], "a broken row", "rows.jsonl:2: rejected is missing"),
    ("dpo", [PAIR, {**PAIR, "rejected": None}], "a broken row", "rows.jsonl:2: rejected is nothing (null)"),
    ("orpo", [{"chosen": "a", "rejected": "b"}], "a broken row", "rows.jsonl:1: there is no prompt"),
    ("cpo", [PAIR, {**PAIR, "rejected": "a"}], "a broken row", "rows.jsonl:2: chosen and rejected are the same answer"),
    (
        "dpo",
        [{"chosen": _conversation("x"), "rejected": _conversation("y")}],
        "a broken row",
        "rows.jsonl:1: chosen and rejected differ before the answer",
    ),
    ("kto", [ANSWER, {**ANSWER, "label": None}], "a broken row", "rows.jsonl:2: label is nothing (null)"),
    ("kto", [ANSWER, {**ANSWER, "label": 3}], "a broken row", "rows.jsonl:2: label is"),
    (
        "dpo",
        [{**PAIR, "prompt": "word " * 300}],
        "nothing is left to train on",
        "rows.jsonl:1: nothing to learn",
    ),
    (
        "dpo",
        [{**PAIR, "chosen": "<|im_end|>"}],
        "nothing is left to train on",
        "rows.jsonl:1: a message holds",
    ),
]


@pytest.mark.parametrize(("method", "rows", "message", "fault"), BAD, ids=[f"{b[0]} {b[3] or b[2]}" for b in BAD])
def test_bad_data_is_one_clear_error_before_anything_loads(
    method: str, rows: list[dict[str, Any]], message: str, fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = {"model_name": "fastft/tiny", "max_seq_length": 64}
    with pytest.raises(DatasetError) as caught:
        fastft.check({"model": model, "lora": {"r": 8}, "data": {"path": str(path)}, "method": method})
    assert message in caught.value.message
    assert caught.value.hint
    assert [str(found)[: len(fault)] for found in caught.value.faults] == ([fault] if fault else [])
