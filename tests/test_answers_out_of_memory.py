"""Memory that runs out where a model writes the answers it learns from: fewer are written at a time."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fastft import out_of_memory
from fastft.errors import TrainingError
from fastft.files import sha256_of
from fastft.run import Run
from fastft.trainers.groups import fewer_answers
from tests.short_runs import recipe_of
from tests.test_out_of_memory import CALLBACK, WEIGHTS

# Asks for more than there is as long as more than so many answers are written at a time.
WRITING = """
import torch
from transformers import TrainerCallback

class Greedy(TrainerCallback):
    def on_train_begin(self, args, state, control, model=None, **kwargs):
        def look(module, given, options):
            ids = options.get("input_ids")
            if state.global_step >= {step} and not torch.is_grad_enabled() and ids is not None and len(ids) > {most}:
                torch.empty(1 << 55)
        model.get_base_model().register_forward_pre_hook(look, with_kwargs=True)
"""
SIZES = ("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation")


def _recipe(folder: Path, method: str = "grpo", **training: Any) -> dict[str, Any]:
    rows = [{"prompt": f"Say {n}. " * (1 + n % 3), "answer": str(n)} for n in range(24)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {
        "num_generations": 4, "max_completion_length": 12, "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2, "save_steps": 2, **training,
    }  # fmt: skip
    callbacks = [f"{folder / 'greedy.py'}:Greedy"] if (folder / "greedy.py").exists() else []
    rewards = [{"builtin": "length", "arguments": {"most": 4}}]
    return recipe_of(folder / "prompts.jsonl", method=method, training=training, rewards=rewards, callbacks=callbacks)


def _train(recipe: dict[str, Any], folder: Path) -> tuple[Run, str]:
    import fastft

    said = io.StringIO()
    return fastft.train(recipe, output_dir=folder, console=Console(file=said, width=300)), said.getvalue()


def _points(run: Run) -> list[dict[str, float]]:
    names = ("step", "loss", "grad_norm", "reward", "completions/mean_length", "eval_reward")
    return [{name: point[name] for name in names if name in point} for point in run.metrics()]


def _same(run: Run, other: Run) -> None:
    assert sha256_of(run.adapter / WEIGHTS) == sha256_of(other.adapter / WEIGHTS)
    assert _points(run) == _points(other)
    assert (run.directory / "completions.jsonl").read_text() == (other.directory / "completions.jsonl").read_text()


def test_fewer_answers_are_whole_groups_and_a_step_has_as_many() -> None:
    def fewer(batch: int, accumulation: int, **more: Any) -> Any:
        sizes = dict(zip(SIZES, (batch, accumulation), strict=False))
        return fewer_answers({**sizes, "num_generations": 4, **more})

    assert fewer(8, 4) == {"steps_per_generation": 2}
    assert fewer(2, 6) == {"steps_per_generation": 2}, "three micro-batches of two are no whole group"
    assert fewer(8, 1) == dict(zip(SIZES, (4, 2, 1), strict=True))
    assert fewer(2, 2) == {}, "one group"
    assert fewer(6, 2) == dict(zip(SIZES, (2, 6, 2), strict=True)), "three groups become one"
    assert fewer(8, 1, steps_per_generation=4) == {"steps_per_generation": 2}
    assert fewer(8, 1, generation_batch_size=16) == {"steps_per_generation": 1, "generation_batch_size": None}
    assert fewer(8, 4, num_iterations=2) == {}, "a step would learn twice from half of its answers"
    assert fewer(8, 2, steps_per_generation=4, num_iterations=2) == {"steps_per_generation": 2}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_the_rehearsal_of_answers_leaves_no_trace(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastft import rehearsal
    from fastft.resume import started_with

    recipe = _recipe(tmp_path, method, eval_strategy="steps", eval_steps=2)
    with_it, _ = _train(recipe, tmp_path / "with")
    monkeypatch.setattr(rehearsal, "rehearse", lambda _, run, *__: started_with(run))
    without, _ = _train(recipe, tmp_path / "without")
    _same(with_it, without)


@pytest.mark.slow
def test_the_longest_prompts_are_answered_as_long_as_it_goes(tmp_path: Path) -> None:
    """What the rehearsal's step learns from has the shape of the largest that training can meet."""
    from fastft import rehearsal

    seen: list[tuple[tuple[int, ...], ...]] = []
    real = rehearsal.trainer_builder

    def building(method: str) -> Any:
        def build(job: Any) -> Any:
            trainer = real(method)(job)
            compute = trainer.compute_loss

            def looking(model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
                if model.training:
                    seen.append(tuple(tuple(inputs[name].shape) for name in ("prompt_ids", "completion_ids")))
                return compute(model, inputs, *args, **options)

            trainer.compute_loss = looking
            return trainer

        return build

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsal, "trainer_builder", building)
        run, _ = _train(_recipe(tmp_path), tmp_path / "run")
    audit = json.loads(run.audit_path.read_text())
    assert seen == [((8, audit["train"]["lengths"]["max"]), (8, 12))]


@pytest.mark.slow
def test_fewer_answers_at_a_time_are_those_of_a_run_begun_so(tmp_path: Path) -> None:
    less = dict(zip(SIZES, (4, 4, 1), strict=True))
    whole, _ = _train(_recipe(tmp_path, **less), tmp_path / "whole")
    (tmp_path / "greedy.py").write_text(WRITING.format(step=1, most=4))
    run, said = _train(_recipe(tmp_path), tmp_path / "run")
    again = "memory ran out in step 2; going on from step 0 with"
    assert f"{again} steps_per_generation 2 → 1" in said
    assert f"{again} per_device_train_batch_size 8 → 4, gradient_accumulation_steps 2 → 4" in said
    assert {key: json.loads(run.start_path.read_text())["arguments"][key] for key in SIZES} == less
    _same(run, whole)


@pytest.mark.slow
def test_where_one_prompts_answers_are_too_many_it_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "greedy.py").write_text(WRITING.format(step=2, most=3))
    with pytest.raises(TrainingError, match="memory ran out in step 3, and there is nothing left") as caught:
        _train(_recipe(tmp_path, **dict(zip(SIZES, (4, 1), strict=False))), tmp_path / "run")
    assert "set training.num_generations or training.max_completion_length lower" in caught.value.hint
    assert "Go on from step 2" in caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_answers_that_several_steps_learn_from_are_kept_when_micro_batches_are_halved(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later in a long training: the answers are the same, and the losses but for rounding."""
    monkeypatch.setattr(out_of_memory, "_WORTH_EXACTNESS", 0.0)
    options = {"steps_per_generation": 4, "gradient_accumulation_steps": 1, "max_steps": 4, "save_steps": 100}
    whole, _ = _train(_recipe(tmp_path, method, **options), tmp_path / "whole")
    (tmp_path / "greedy.py").write_text(CALLBACK.format(step=2, most=4))
    run, said = _train(_recipe(tmp_path, method, **options), tmp_path / "run")
    assert "memory ran out in step 3; going on from step 2 with per_device_train_batch_size 8 → 4" in said
    assert (run.directory / "completions.jsonl").read_text() == (whole.directory / "completions.jsonl").read_text()
    losses = [[point["loss"] for point in each.metrics() if "loss" in point] for each in (run, whole)]
    assert losses[0][:2] == losses[1][:2]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
