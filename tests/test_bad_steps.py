"""Steps that must not be learned from: found before a weight moves, told with their rows, kept, skipped or ended at."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from safetensors import safe_open

from fastft.bad_steps import FOLDER, LIST, BadSteps, rows_of
from fastft.data.conversation import Example
from fastft.errors import ModelError, RecipeError, TrainingError
from fastft.recipe.bad_steps_section import BadStepsSection
from tests.short_runs import recipe_of, write_chats, write_pairs

# Weights are spoilt during some steps only, as bad rows would spoil their loss; each step's weights are written down.
CALLBACK = """
import hashlib, json, torch
from pathlib import Path
from transformers import TrainerCallback

def chosen(model):
    return next(p for n, p in model.named_parameters() if "lora_B" in n)

class Spoil(TrainerCallback):
    def on_step_begin(self, args, state, control, model=None, **kwargs):
        weights = hashlib.sha256(chosen(model).detach().numpy().tobytes()).hexdigest()
        with Path({log!r}).open("a") as file:
            file.write(json.dumps([state.global_step, weights]) + "\\n")
        self.kept = None
        if state.global_step + 1 in {steps}:
            self.kept = chosen(model).detach().clone()
            chosen(model).data.fill_({value})

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.kept is not None:
            chosen(model).data.copy_(self.kept)
"""


def _spoilt(folder: Path, steps: list[int], value: str = "float('nan')", **sections: Any) -> dict[str, Any]:
    text = CALLBACK.format(steps=steps, value=value, log=str(folder / "weights.jsonl"))
    (folder / "spoil.py").write_text(text)
    training = {"max_steps": 6, "save_steps": 1, "gradient_accumulation_steps": 2} | sections.pop("training", {})
    data = sections.pop("data", None) or write_chats(folder / "chats.jsonl")
    return recipe_of(data, callbacks=[f"{folder / 'spoil.py'}:Spoil"], training=training, **sections)


def _train(recipe: dict[str, Any], folder: Path) -> tuple[Any, str]:
    import fastft

    said = io.StringIO()
    return fastft.train(recipe, output_dir=folder / "run", console=Console(file=said, width=300)), said.getvalue()


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


def test_rows_are_named_in_the_order_of_the_batch_and_equal_ones_together() -> None:
    import torch

    examples = [Example([n % 3, 7], [-100, 7], f"rows.jsonl:{n}") for n in range(5)]
    batch = {"input_ids": torch.tensor([[2, 7], [0, 7], [1, 7], [0, 7]]), "attention_mask": torch.ones(4, 2)}
    assert rows_of(batch, examples) == ["rows.jsonl:2", "rows.jsonl:0 or rows.jsonl:3", "rows.jsonl:1 or rows.jsonl:4"]


class _Step:
    """One parameter with a gradient, and what is looked at of a step."""

    def __init__(self, folder: Path, **section: Any) -> None:
        import torch

        self.parameter = torch.nn.Parameter(torch.ones(2))
        model = SimpleNamespace(named_parameters=lambda: [("weight", self.parameter)])
        optimizer = SimpleNamespace(param_groups=[{"params": [self.parameter]}])
        self.trainer = SimpleNamespace(optimizer=optimizer, model=model)
        self.said: list[str] = []
        examples = [Example([1, 2], [-100, 2], "rows.jsonl:1")]
        self.watch = BadSteps(BadStepsSection(**section), examples, folder / FOLDER, self.said.append)
        self.steps = 0

    def take(self, loss: float, *, label: int = 2, norm: float = 1.0, scaled: bool = False) -> bool:
        """Whether the step is taken."""
        import torch

        self.steps += 1
        self.parameter.grad = torch.ones(2)
        self.watch._fed = [{"input_ids": torch.tensor([[1, 2]]), "labels": torch.tensor([[-100, label]])}]
        self.watch._losses, self.watch._norm = [torch.tensor(loss)], torch.tensor(norm)
        self.watch.look(self.steps, self.trainer, scaled=scaled)
        return self.parameter.grad is not None


def test_each_kind_of_bad_step_is_named(tmp_path: Path) -> None:
    inf = float("inf")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"loss": inf}, "the loss is inf at step 1, in a batch of rows.jsonl:1; the batch is kept in"),
        ({"loss": 1.0, "norm": inf}, "the gradients have a norm of inf at step 1, in a batch of rows.jsonl:1"),
        ({"loss": 0.0, "label": -100}, "no token is supervised at step 1, in a batch of rows.jsonl:1"),
    ]
    for options, said in cases:
        with pytest.raises(TrainingError) as caught:
            _Step(tmp_path).take(**options)
        assert caught.value.message.startswith(said)
        assert not _Step(tmp_path, action="skip").take(**options)
    assert _Step(tmp_path).take(1.0, norm=inf, scaled=True), "float16's scaler leaves such a step out itself"


def test_a_spike_is_a_loss_far_above_the_last_ones(tmp_path: Path) -> None:
    """The median is 2, the quartiles 1.9 and 2.1: ten times their distance above it is 4."""
    usual = [1.9, 2.0, 2.1, 2.0, 1.8, 2.2, 1.9, 2.1] * 2
    step = _Step(tmp_path, spike_action="skip")
    assert all(step.take(loss) for loss in usual)
    assert step.take(3.9)
    assert not step.take(4.2)
    assert "the loss is 4.200, a spike above" in step.said[0]
    assert not step.take(100.0)
    early = _Step(tmp_path, spike_action="skip")
    assert all(early.take(loss) for loss in [2.0] * 15)
    assert early.take(50.0), "too few steps to judge by"
    flat = _Step(tmp_path, spike_action="skip")
    assert all(flat.take(2.0) for _ in range(20))
    assert flat.take(2.9), "by 1 at least"
    assert not flat.take(3.1)


def test_what_is_told_is_learned_from_and_what_is_ignored_leaves_nothing(tmp_path: Path) -> None:
    told, ignored = (_Step(tmp_path / action, spike_action=action) for action in ("tell", "ignore"))
    for step in (told, ignored):
        assert all(step.take(loss) for loss in [2.0] * 16 + [9.0])
    assert len(told.said) == 1
    assert (tmp_path / "tell" / FOLDER / "step-17.safetensors").is_file()
    assert not ignored.said
    assert not (tmp_path / "ignore").exists()


def test_a_batch_that_cant_be_kept_whole_is_not_there(tmp_path: Path) -> None:
    """Where a file ends before it is whole; what was noted before stays as it was."""
    import resource

    step = _Step(tmp_path, action="skip")
    assert not step.take(float("nan"))
    noted = (tmp_path / FOLDER / LIST).read_text()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(noted) + 20, before[1]))
    try:
        with pytest.raises(Exception, match=r"(?i)too large"):
            step.take(float("nan"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in sorted((tmp_path / FOLDER).iterdir())] == ["step-1.safetensors", LIST]
    assert (tmp_path / FOLDER / LIST).read_text() == noted


def test_too_many_skipped_in_a_row_end_the_training(tmp_path: Path) -> None:
    step = _Step(tmp_path, action="skip", most_skipped=2)
    nan = float("nan")
    assert [step.take(loss) for loss in (nan, nan, 1.0, nan, nan)] == [False, False, True, False, False]
    with pytest.raises(TrainingError, match=r"\(3 bad steps in a row\)"):
        step.take(nan)
    assert step.watch.skipped == 4
    step.parameter.data[1] = nan


def test_a_batch_is_not_blamed_for_weights_that_are_no_numbers(tmp_path: Path) -> None:
    step = _Step(tmp_path, action="skip")
    step.parameter.data[1] = float("nan")
    with pytest.raises(
        TrainingError, match=r"the loss is nan at step 1: weights are no numbers any more, first weight"
    ):
        step.take(float("nan"))


@pytest.mark.slow
def test_no_checkpoint_has_weights_that_are_no_numbers(tmp_path: Path) -> None:
    """An update may make them so whose loss and gradients are sound: here by an epsilon that is nothing in float32."""
    recipe = _spoilt(tmp_path, [], training={"adam_epsilon": 1e-300, "learning_rate": 5e-3})
    with pytest.raises(TrainingError, match=r"after step \d: weights are no numbers any more, first ") as caught:
        _train(recipe, tmp_path)
    assert "by too high a learning_rate" in caught.value.message
    for checkpoint in (tmp_path / "run" / "checkpoints").glob("checkpoint-*"):
        with safe_open(checkpoint / "adapter_model.safetensors", framework="pt") as file:
            assert all(bool(file.get_tensor(name).isfinite().all()) for name in file.keys())  # noqa: SIM118


def test_steps_that_were_told_and_learned_from_are_none_in_a_row(tmp_path: Path) -> None:
    step = _Step(tmp_path, action="skip", most_skipped=1, spike_action="tell")
    assert all(step.take(loss) for loss in [2.0] * 16 + [9.0, 9.0, 9.0])
    assert not step.take(float("nan"))
    assert step.take(9.0)
    assert not step.take(float("nan"))
    assert step.watch.skipped == 2


def test_a_recipe_with_another_action_is_refused(tmp_path: Path) -> None:
    from fastft.recipe.load import load_recipe

    recipe = recipe_of(write_chats(tmp_path / "chats.jsonl"), bad_steps={"action": "ignore"})
    with pytest.raises(RecipeError, match=r"bad_steps\.action"):
        load_recipe(recipe)


@pytest.mark.slow
def test_a_run_without_bad_steps_has_no_batch_to_replay(tmp_path: Path) -> None:
    from fastft.replaying import replay
    from fastft.run import Run

    with pytest.raises(ModelError, match="none was kept in this run") as caught:
        replay(Run(tmp_path), 6)
    assert caught.value.hint.startswith("Only the batches of bad steps are kept: a loss or gradient that is NaN")


def test_training_stops_before_the_step_and_the_step_can_be_replayed(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"stopped at step 3 of 6: the loss is nan at step 4, in a batch of"
    ) as caught:
        _train(_spoilt(tmp_path, [4]), tmp_path)
    assert "chats.jsonl:" in caught.value.message
    assert "from step 3" in caught.value.hint
    assert (tmp_path / "run" / FOLDER / "step-4.safetensors").is_file()
    assert not (tmp_path / "run" / "checkpoints" / "checkpoint-4").exists()

    from fastft.replaying import describe, replay

    again = replay(tmp_path / "run", 4)
    assert again.checkpoint is not None
    assert again.checkpoint.name == "checkpoint-3"
    assert 0 < sum(again.losses) < 20  # the rows are sound: it was the weights
    assert len(again.losses) == 2
    assert again.norm > 0
    assert all("chats.jsonl:" in row for row in again.rows)
    assert len(again.rows) == 8
    assert len(again.worst) == 5
    assert {place for place, *_ in again.worst} <= set(again.rows)
    assert f"  {again.worst[0][0]}, token " in describe(again)
    assert "with checkpoint 3" in describe(again)
    with pytest.raises(ModelError, match=r"no batch of step 3 was kept in .*: kept are those of the steps 4"):
        replay(tmp_path / "run", 3)
    (tmp_path / "run" / FOLDER / "step-3.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match=r"step-3.safetensors is no batch that training kept"):
        replay(tmp_path / "run", 3)


@pytest.mark.slow
def test_skipped_steps_are_counted_on_when_a_run_goes_on(tmp_path: Path) -> None:
    """In all, for the manifest, and in a row: a run that is stopped between gets no more of them than another."""
    import fastft

    recipe = _spoilt(tmp_path, [3, 4, 5, 6], bad_steps={"action": "skip", "most_skipped": 3})
    with pytest.raises(TrainingError, match=r"4 bad steps in a row"):
        _train(recipe, tmp_path)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "checkpoint-5")
    with pytest.raises(TrainingError, match=r"4 bad steps in a row"):  # on from the fourth step, two of them skipped
        _train(recipe, tmp_path)
    _spoilt(tmp_path, [])
    console = Console(file=io.StringIO())
    run = fastft.train(tmp_path / "run", resume=True, console=console)
    assert run.manifest()["training"]["skipped_steps"] == 3
    assert [point["step"] for point in run.metrics() if "loss" in point] == [1, 2, 6], "the others had none"


@pytest.mark.slow
def test_a_skipped_step_moves_no_weight_and_training_goes_on(tmp_path: Path) -> None:
    recipe = _spoilt(tmp_path, [4], bad_steps={"action": "skip"}, training={"learning_rate": 5e-3})
    run, said = _train(recipe, tmp_path)
    assert "the loss is nan at step 4, in a batch of" in said
    assert "the step is skipped" in said
    weights = dict(json.loads(line) for line in (tmp_path / "weights.jsonl").read_text().splitlines())
    assert weights[3] == weights[4]
    assert len(set(weights.values())) == 4, "the first step's rate is 0, the fourth is skipped"
    noted = [json.loads(line) for line in (run.directory / FOLDER / LIST).read_text().splitlines()]
    assert [(each["step"], each["action"], each["losses"]) for each in noted] == [(4, "skip", ["nan", "nan"])]
    assert run.manifest()["training"]["skipped_steps"] == 1
    points = [point for point in run.metrics() if "grad_norm" in point]
    assert [point["step"] for point in points] == [1, 2, 3, 4, 5, 6]
    assert [point["step"] for point in points if "loss" in point] == [1, 2, 3, 5, 6], "4 had no loss, and not 0"
    assert [point["step"] for point in points if point["grad_norm"] is None] == [4], "NaN is no JSON"


@pytest.mark.slow
def test_the_losses_that_spikes_are_judged_by_are_those_of_the_log_also_after_a_resume(tmp_path: Path) -> None:
    import fastft

    with pytest.raises(TrainingError, match=r"; with bad_steps\.action=skip training goes on"):
        _train(_spoilt(tmp_path, [4]), tmp_path)
    (tmp_path / "spoil.py").write_text(CALLBACK.format(steps=[], value=0, log=str(tmp_path / "weights.jsonl")))
    said = io.StringIO()
    skipping = ["bad_steps.action=skip"]
    run = fastft.train(tmp_path / "run", skipping, resume=True, console=Console(file=said, width=200))
    assert "changed: bad_steps.action nothing → 'skip'" in said.getvalue()
    state = json.loads((run.checkpoints / "checkpoint-6" / "trainer_state.json").read_text())
    logged = [point["loss"] for point in run.metrics() if "loss" in point]
    assert state["stateful_callbacks"]["fastft_losses"] == pytest.approx(logged, rel=1e-5)
    assert len(logged) == 6


# As Spoil, but only for what is learned: a model that is spoilt writes no answers.
LEARNING = """
import torch
from transformers import TrainerCallback

class Spoil(TrainerCallback):
    kept = None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        weight = next(p for n, p in model.named_parameters() if "lora_B" in n)

        def look(module, given):
            if torch.is_grad_enabled() and state.global_step == 1 and self.kept is None:
                self.kept = weight.detach().clone()
                weight.data.fill_(float("nan"))
        model.register_forward_pre_hook(look)

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.kept is not None and state.global_step == 1:
            next(p for n, p in model.named_parameters() if "lora_B" in n).data.copy_(self.kept)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_answers_that_are_skipped_are_named_by_their_prompts_and_replayed(tmp_path: Path, method: str) -> None:
    (tmp_path / "spoil.py").write_text(LEARNING)
    rows = [{"prompt": f"Say {n}.", "answer": str(n)} for n in range(12)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {"num_generations": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    recipe = recipe_of(
        tmp_path / "prompts.jsonl",
        method=method,
        training={**sizes, "max_completion_length": 8, "save_steps": 1, "save_total_limit": 5},
        rewards=[{"builtin": "length", "arguments": {"most": 4}}],
        bad_steps={"action": "skip"},
        callbacks=[f"{tmp_path / 'spoil.py'}:Spoil"],
    )
    run, said = _train(recipe, tmp_path)
    assert "the loss is nan at step 2, in a batch of prompts.jsonl:" in said
    noted = [json.loads(line) for line in (run.directory / FOLDER / LIST).read_text().splitlines()]
    assert [each["step"] for each in noted] == [2]
    assert all(row.startswith("prompts.jsonl:") for row in noted[0]["rows"])
    assert len(set(noted[0]["rows"])) == 2, "two prompts, each answered four times"

    from fastft.replaying import replay

    again = replay(run.directory, 2)
    assert again.checkpoint is not None
    assert again.checkpoint.name == "checkpoint-1"
    assert set(again.rows) == set(noted[0]["rows"])
    assert len(again.losses) == 2
    assert all(abs(loss) < 10 for loss in again.losses)
    assert again.tokens > 0


@pytest.mark.slow
def test_a_pair_that_stops_dpo_is_named_and_replayed(tmp_path: Path) -> None:
    recipe = _spoilt(tmp_path, [3], method="dpo", data=write_pairs(tmp_path / "pairs.jsonl"))
    with pytest.raises(TrainingError, match=r"is nan at step 3, in a batch of pairs.jsonl:"):
        _train(recipe, tmp_path)

    from fastft.replaying import replay

    again = replay(tmp_path / "run", 3)
    assert again.checkpoint is not None
    assert again.checkpoint.name == "checkpoint-2"
    assert len(again.losses) == 2
    assert all(0.1 < loss < 0.694 for loss in again.losses), "less than in the beginning, ln 2"
    assert len(again.rows) == 8, "each pair once"
