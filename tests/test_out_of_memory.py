"""Memory that runs out, by the allocator's own error: training goes on with smaller micro-batches, and says so."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from fastft import out_of_memory
from fastft.errors import TrainingError
from fastft.files import sha256_of
from fastft.out_of_memory import ran_out_of_memory, take_less
from fastft.run import Run
from tests.short_runs import recipe_of, train, write_chats, write_pairs

WEIGHTS = "adapter_model.safetensors"

# Asks for more than there is as long as micro-batches hold more than so many rows.
CALLBACK = """
import torch
from transformers import TrainerCallback

class Greedy(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step >= {step} and args.per_device_train_batch_size > {most}:
            torch.empty(1 << 55)
"""


FAILING = """
from transformers import TrainerCallback

class Greedy(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == {step}:
            raise RuntimeError("a fault of its own")
"""
IN_EVALUATION = """
import torch
from transformers import TrainerCallback

class Greedy(TrainerCallback):
    def on_prediction_step(self, args, state, control, **kwargs):
        if state.global_step >= 2 and args.per_device_eval_batch_size > 1:
            torch.empty(1 << 55)
"""


def _losses(run: Run, name: str = "loss") -> list[float]:
    return [point[name] for point in run.metrics() if name in point]


def write_judged(path: Path) -> Path:
    turns = ({"role": "user", "content": f"Say {n}."} for n in range(16))
    rows = [
        {"prompt": [turn], "completion": [{"role": "assistant", "content": f"It is {n}."}], "label": n % 2 == 0}
        for n, turn in enumerate(turns)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _chat(asked: str, said: str) -> str:
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return json.dumps({"messages": turns}) + "\n"


def _uneven(path: Path) -> None:
    path.write_text("".join(_chat(f"Count to {n}.", " ".join(map(str, range(n % 13)))) for n in range(1, 60)))


def _long(path: Path) -> None:
    path.write_text("".join(_chat(f"Count {n}.", " ".join(str(k % 10) for k in range(n, n + 220))) for n in range(64)))


@contextmanager
def _looking_at_outputs(made: list[Any]) -> Iterator[None]:
    """`made` gets the logits that the model gives in the evaluations of the trainings within."""
    from fastft import training

    make = training.make_trainer

    def looked_at(*args: Any) -> Any:
        trainer, meter = make(*args)

        def look(model: Any, args: Any, output: Any) -> None:  # noqa: ARG001
            if not model.training:
                made.append(getattr(output, "logits", None))

        evaluate = trainer.evaluate

        def evaluated(*args: Any, **options: Any) -> Any:
            hook = trainer.model.register_forward_hook(look)
            found = evaluate(*args, **options)
            hook.remove()
            return found

        trainer.evaluate = evaluated
        return trainer, meter

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "make_trainer", looked_at)
        yield


def _train(folder: Path, name: str, **training: Any) -> tuple[Any, str]:
    import fastft

    said, callbacks = io.StringIO(), [f"{folder / 'greedy.py'}:Greedy"] if (folder / "greedy.py").exists() else []
    values = {"max_steps": 4, "save_steps": 1, "gradient_accumulation_steps": 1, **training}
    recipe = recipe_of(folder / "chats.jsonl", training=values, callbacks=callbacks)
    run = fastft.train(recipe, output_dir=folder / name, console=Console(file=said, width=200))
    return run, said.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_chats(tmp_path / "chats.jsonl")
    return tmp_path


def test_the_allocators_errors_are_known() -> None:
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55)
    assert ran_out_of_memory(caught.value)
    wrapped = TrainingError("training stopped")
    wrapped.__cause__ = caught.value
    assert ran_out_of_memory(wrapped)
    assert not ran_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.slow
def test_at_the_first_step_it_equals_a_run_begun_with_the_smaller_batch(folder: Path) -> None:
    whole, _ = _train(folder, "whole", per_device_train_batch_size=2, gradient_accumulation_steps=4)
    (folder / "greedy.py").write_text(CALLBACK.format(step=0, most=2))
    run, said = _train(folder, "run", per_device_train_batch_size=8)
    again = "memory ran out in step 1; going on from step 0 with per_device_train_batch_size"
    assert f"{again} 8 → 4, gradient_accumulation_steps 1 → 2" in said
    assert f"{again} 4 → 2, gradient_accumulation_steps 2 → 4" in said
    assert sha256_of(run.adapter / WEIGHTS) == sha256_of(whole.adapter / WEIGHTS)
    assert _losses(run) == _losses(whole)
    assert len(json.loads(run.start_path.read_text())["reduced"]) == 2


@pytest.mark.slow
def test_later_in_a_short_training_all_is_done_again_and_equals_it_too(folder: Path) -> None:
    whole, _ = _train(folder, "whole", per_device_train_batch_size=2, gradient_accumulation_steps=4)
    (folder / "greedy.py").write_text(CALLBACK.format(step=2, most=2))
    run, said = _train(folder, "run", per_device_train_batch_size=8)
    assert "memory ran out in step 3; going on from step 0 with per_device_train_batch_size 8 → 4" in said
    assert sha256_of(run.adapter / WEIGHTS) == sha256_of(whole.adapter / WEIGHTS)
    assert _losses(run) == _losses(whole)


@pytest.mark.slow
def test_halved_answers_of_grpo_are_those_of_a_run_begun_with_less(folder: Path) -> None:
    """What is written at a time stays the same: twice as many micro-batches learn from it."""
    shipped = Path(__file__).parents[1] / "recipes"
    text = (shipped / "grpo" / "tiny.yaml").read_text()
    recipe = yaml.safe_load(text.replace("../data", f"{shipped}/data").replace("../rewards", f"{shipped}/rewards"))
    recipe |= {"export": {"formats": []}, "callbacks": [f"{folder / 'greedy.py'}:Greedy"]}
    recipe["training"] |= {"max_steps": 3, "num_generations": 4, "max_completion_length": 16}
    (folder / "greedy.py").write_text(CALLBACK.format(step=1, most=4))
    runs = []
    for batch, accumulation in ((8, 2), (4, 4)):
        sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        runs.append(train({**recipe, "training": {**recipe["training"], **sizes}}, folder / f"of-{batch}"))
    assert sha256_of(runs[0].adapter / WEIGHTS) == sha256_of(runs[1].adapter / WEIGHTS)
    assert len(json.loads(runs[0].start_path.read_text())["reduced"]) == 1
    answers = [(run.directory / "completions.jsonl").read_text() for run in runs]
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_later_in_a_long_training_the_step_is_repeated_from_its_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte as a run that stopped after the step before, and went on with less."""
    import fastft

    monkeypatch.setattr(out_of_memory, "_WORTH_EXACTNESS", 0.0)
    options = {"per_device_train_batch_size": 4, "logging_steps": 2, "max_steps": 5}
    (folder / "greedy.py").write_text(FAILING.format(step=3))
    with pytest.raises(TrainingError, match="a fault of its own"):
        _train(folder, "stopped", **options, save_steps=3)
    stopped = Run(folder / "stopped")
    assert take_less(stopped, 3, "training") == ("per_device_train_batch_size 4 → 2, gradient_accumulation_steps 1 → 2")
    (folder / "greedy.py").write_text(FAILING.format(step=100))
    whole = fastft.train(stopped.directory, resume=True, console=Console(file=io.StringIO()))

    (folder / "greedy.py").write_text(CALLBACK.format(step=3, most=2))
    run, said = _train(folder, "run", **options, save_steps=100)
    assert "memory ran out in step 4; going on from step 3 with per_device_train_batch_size 4 → 2" in said
    assert sha256_of(run.adapter / WEIGHTS) == sha256_of(whole.adapter / WEIGHTS)
    assert _losses(run) == _losses(whole)
    assert len(_losses(run)) == 2


@pytest.mark.slow
def test_where_nothing_is_left_to_halve_it_stops_and_keeps_the_checkpoint(folder: Path) -> None:
    (folder / "greedy.py").write_text(CALLBACK.format(step=2, most=0))
    with pytest.raises(TrainingError, match="memory ran out in step 3, and there is nothing left") as caught:
        _train(folder, "run", per_device_train_batch_size=1)
    assert "Go on from step 2" in caught.value.hint
    assert "max_seq_length" in caught.value.hint


@pytest.mark.slow
def test_an_evaluation_that_runs_out_of_memory_begins_again_with_less(folder: Path) -> None:
    evaluated = {"eval_strategy": "steps", "eval_steps": 2}
    whole, _ = _train(folder, "whole", per_device_eval_batch_size=1, **evaluated)
    (folder / "greedy.py").write_text(IN_EVALUATION)
    run, said = _train(folder, "run", per_device_eval_batch_size=4, **evaluated)
    assert "memory ran out in an evaluation; it begins again with per_device_eval_batch_size 4 → 2" in said
    assert "per_device_eval_batch_size 2 → 1" in said
    assert sha256_of(run.adapter / WEIGHTS) == sha256_of(whole.adapter / WEIGHTS)
    assert _losses(run, "eval_loss") == _losses(whole, "eval_loss")
    assert len(_losses(run, "eval_loss")) == 2
    assert len(json.loads(run.start_path.read_text())["reduced"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "dpo", "kto"])
def test_the_rehearsal_leaves_no_trace(folder: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastft import rehearsal
    from fastft.resume import started_with

    data = {"sft": write_chats, "dpo": write_pairs, "kto": write_judged}[method](folder / "rows.jsonl")
    recipe = recipe_of(data, method=method, training={"max_steps": 3, "eval_strategy": "steps", "eval_steps": 2})
    with_it = train(recipe, folder / "with")
    monkeypatch.setattr(rehearsal, "rehearse", lambda _, run, *__: started_with(run))
    without = train(recipe, folder / "without")
    assert sha256_of(with_it.adapter / WEIGHTS) == sha256_of(without.adapter / WEIGHTS)
    assert _losses(with_it) == _losses(without)
    assert _losses(with_it, "eval_loss") == _losses(without, "eval_loss")


@pytest.mark.slow
@pytest.mark.parametrize("packing", [False, True])
def test_the_rehearsal_sees_the_longest_rows(folder: Path, packing: bool) -> None:
    """The tokens of its step are at least those of any step of the training."""
    from fastft import rehearsal

    seen: list[tuple[str, int]] = []
    real = rehearsal.trainer_builder

    def building(method: str) -> Any:
        def build(job: Any) -> Any:
            trainer = real(method)(job)
            step = trainer.training_step

            def counting(model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
                seen.append(("rehearsed", int(inputs["input_ids"].numel())))
                return step(model, inputs, *args, **options)

            trainer.training_step = counting
            return trainer

        return build

    _uneven(folder / "chats.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsal, "trainer_builder", building)
        run, _ = _train(folder, "run", per_device_train_batch_size=4, max_steps=5, packing=packing)
    assert len(seen) == 1
    assert seen[0][1] >= max(point["tokens"] for point in run.metrics() if "tokens" in point)


@pytest.mark.slow
def test_no_evaluation_makes_logits_of_a_batch(folder: Path) -> None:
    """Of SFT and DPO, whose losses go over the hidden states in pieces; nor does any trainer keep them."""
    for method, write in (("sft", write_chats), ("dpo", write_pairs)):
        made: list[Any] = []
        recipe = recipe_of(
            write(folder / "rows.jsonl"), method=method, training={"eval_strategy": "steps", "eval_steps": 1}
        )
        with _looking_at_outputs(made):
            train(recipe, folder / method)
        assert made
        assert all(logits is None for logits in made)


REAL = [
    # What fails, when the limit falls, the megabytes that are left then.
    ("step", "3", "8", {"per_device_train_batch_size": 16}),
    ("evaluation", "-2", "120", {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 32}),
]


def _alone(folder: Path, recipe: dict[str, Any], name: str, moment: str, megabytes: str) -> tuple[Run, str]:
    """The run that a process of its own makes, with so many megabytes left from a moment on, and what it says."""
    (folder / f"{name}.json").write_text(json.dumps(recipe))
    command = [sys.executable, "-m", "tests.limited_memory", f"{name}.json", name, moment, megabytes]
    root = Path(__file__).resolve().parents[1]
    told = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(root), "COLUMNS": "250", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    return Run(folder / name), told.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("what", "moment", "megabytes", "batch"), REAL, ids=[each[0] for each in REAL])
def test_with_a_real_limit_it_finishes_and_equals_a_run_begun_with_less(
    tmp_path: Path, what: str, moment: str, megabytes: str, batch: dict[str, int]
) -> None:
    _long(tmp_path / "chats.jsonl")
    recipe = recipe_of(
        tmp_path / "chats.jsonl",
        model={"max_seq_length": 512},
        training={"save_steps": 100, "gradient_accumulation_steps": 1, **batch}
        | ({"eval_strategy": "steps", "eval_steps": 2} if what == "evaluation" else {}),
    )
    recipe["data"]["eval_split"] = 32 if what == "evaluation" else 16
    run, said = _alone(tmp_path, recipe, "run", moment, megabytes)
    assert "! memory ran out in " + ("an evaluation" if what == "evaluation" else "step 3") in said
    arguments = json.loads(run.start_path.read_text())["arguments"]
    recipe["training"] |= {key: arguments[key] for key in (*batch, "gradient_accumulation_steps")}
    assert any(arguments[key] < size for key, size in batch.items())
    less, _ = _alone(tmp_path, recipe, "less", moment, "100000")
    assert sha256_of(run.adapter / WEIGHTS) == sha256_of(less.adapter / WEIGHTS)
    assert _losses(run) == _losses(less)
    assert _losses(run, "eval_loss") == _losses(less, "eval_loss")
