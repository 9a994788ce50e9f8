"""Early stopping, own callbacks, rates by weight, samples, NEFTune and trackers: each in a training of a few steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import fastft
from fastft.errors import TrainingError
from tests.short_runs import last_trainer, recipe_of, train, write_chats, write_pairs

pytestmark = pytest.mark.slow

WEIGHTS = "adapter/adapter_model.safetensors"
EVALUATED = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True}


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chats(tmp_path_factory.mktemp("data") / "chats.jsonl")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl")


@pytest.fixture(scope="module")
def plain(chats: Path, tmp_path_factory: pytest.TempPathFactory) -> fastft.Run:
    recipe = recipe_of(chats, training={"max_steps": 4, "save_steps": 2}, evaluation={"prompts": ["Say 3."]})
    return train(recipe, tmp_path_factory.mktemp("plain"))


def forget_after(run: fastft.Run, step: int) -> None:
    """The run as a kill just after the checkpoint of `step` leaves it."""
    run.manifest_path.unlink()
    shutil.rmtree(run.adapter)
    for checkpoint in run.checkpoints.glob("checkpoint-*"):
        if int(checkpoint.name.removeprefix("checkpoint-")) > step:
            shutil.rmtree(checkpoint)


def evaluations(run: fastft.Run, key: str) -> dict[int, float]:
    return {point["step"]: point[key] for point in run.metrics() if key in point}


def test_training_ends_where_it_no_longer_improves(chats: Path, tmp_path: Path) -> None:
    """A threshold that nothing passes: the first evaluation is the best, and the second after it the last."""
    recipe = recipe_of(chats, training={"max_steps": 20, **EVALUATED}, early_stopping={"patience": 2, "threshold": 50})
    run = train(recipe, tmp_path / "run")
    assert run.manifest()["training"]["steps"] == 6
    assert list(evaluations(run, "eval_loss")) == [2, 4, 6]
    forget_after(run, 4)
    resumed = train(recipe, run.directory, resume=True)
    assert resumed.manifest()["training"]["steps"] == 6  # the count of evaluations is in the checkpoint


def test_the_best_model_by_any_metric_of_the_method_is_kept(pairs: Path, tmp_path: Path) -> None:
    chosen = {"metric_for_best_model": "logps/rejected", "greater_is_better": True}  # falls as the method works
    with last_trainer() as trainers:
        run = train(recipe_of(pairs, method="dpo", training={"max_steps": 6, **EVALUATED, **chosen}), tmp_path / "run")
    seen = evaluations(run, "eval_logps/rejected")
    assert list(seen) == [2, 4, 6]
    best = max(seen, key=lambda step: seen[step])
    assert best != 6
    assert trainers[0].state.best_global_step == best
    margins = evaluations(run, "eval_rewards/margins")
    assert run.manifest()["evaluation"]["after"]["metrics"]["rewards/margins"] == pytest.approx(margins[best], abs=1e-4)


def test_callbacks_of_ones_own_are_called(chats: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from transformers import TrainerCallback\n"
        "class Notes(TrainerCallback):\n"
        "    def on_step_end(self, args, state, control, **kwargs):\n"
        f"        open({str(tmp_path / 'notes')!r}, 'a').write(f'{{state.global_step}} ')\n"
        "class Ends(Notes):\n"
        "    def __init__(self, step):\n"
        "        self.step = step\n"
        "    def on_step_end(self, args, state, control, **kwargs):\n"
        "        super().on_step_end(args, state, control, **kwargs)\n"
        "        control.should_training_stop = state.global_step >= self.step\n"
        "ends = Ends(2)\n"
        "other = 5\n"
    )
    named = [f"{tmp_path / 'mine.py'}:{name}" for name in ("Notes", "ends")]
    run = train(recipe_of(chats, callbacks=named), tmp_path / "run")
    assert (tmp_path / "notes").read_text() == "1 1 2 2 "
    assert run.manifest()["training"]["steps"] == 2
    with pytest.raises(TrainingError, match="other is int, which is no TrainerCallback"):
        train(recipe_of(chats, callbacks=[f"{tmp_path / 'mine.py'}:other"]), tmp_path / "other")


def test_an_error_in_ones_own_callback_is_told_with_its_type_and_place(
    chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one of a kind that no library raises over a checkpoint, and one that names a secret."""
    monkeypatch.setenv("MY_API_TOKEN", "sesame-open-1234")
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "from transformers import TrainerCallback\n"
        "class Divides(TrainerCallback):\n"
        "    def on_step_end(self, args, state, control, **kwargs):\n"
        "        divide(state.global_step, os.environ['MY_API_TOKEN'])\n"
        "def divide(step, key):\n"
        "    if step == 2:\n"
        "        raise ZeroDivisionError(f'no step for {key}')\n"
        "class Begins(TrainerCallback):\n"
        "    def on_init_end(self, args, state, control, **kwargs):\n"
        "        {}['none']\n"
    )
    with pytest.raises(TrainingError) as caught:
        train(recipe_of(chats, callbacks=[f"{tmp_path / 'mine.py'}:Divides"]), tmp_path / "run")
    place = "(mine.py:8 in divide)"
    assert caught.value.message == f"training stopped at step 2 of 3: ZeroDivisionError: no step for *** {place}"
    log = (tmp_path / "run" / "train.log").read_text()
    assert f"The traceback and what the libraries said are in {tmp_path / 'run' / 'train.log'}" in caught.value.hint
    assert "Traceback" in log
    assert "ZeroDivisionError: no step for ***" in log
    assert "sesame" not in log
    with pytest.raises(TrainingError, match=r"callback of the recipe failed: KeyError: 'none' \(mine.py:11 in on_init"):
        train(recipe_of(chats, callbacks=[f"{tmp_path / 'mine.py'}:Begins"]), tmp_path / "begins")


def test_weights_learn_at_rates_of_their_own_and_resume_so(chats: Path, tiny: Path, tmp_path: Path) -> None:
    """Adam's first step is as long as the rate, whatever the gradient."""
    from safetensors.torch import load_file

    lora = {"r": 4, "modules_to_save": ["embed_tokens"]}
    rates = {"embed_tokens|lm_head": 5e-5, r"q_proj\.lora_B": 1e-3}
    training = {"lr_scheduler_type": "constant", "warmup_steps": 0, "optim": "adamw_torch", "weight_decay": 0}
    one = recipe_of(chats, lora=lora, learning_rates=rates, training={**training, "max_steps": 1})
    with last_trainer() as trainers:
        run = train(one, tmp_path / "one")
    trained = {name: value.abs().max().item() for name, value in load_file(run.directory / WEIGHTS).items()}
    assert all(value == pytest.approx(1e-3, rel=0.01) for name, value in trained.items() if "q_proj.lora_B" in name)
    assert all(value == pytest.approx(5e-3, rel=0.01) for name, value in trained.items() if "v_proj.lora_B" in name)
    embedding = next(value for name, value in load_file(run.directory / WEIGHTS).items() if "embed_tokens" in name)
    before = load_file(tiny / "model.safetensors")["model.embed_tokens.weight"].float()
    assert (embedding - before).abs().max().item() == pytest.approx(5e-5, rel=0.05)
    groups = trainers[0].optimizer.param_groups
    assert sorted({group["lr"] for group in groups}) == [5e-5, 1e-3, 5e-3]
    learned = [id(p) for group in groups for p in group["params"]]
    assert sorted(learned) == sorted(id(p) for p in trainers[0].model.parameters() if p.requires_grad)

    four = recipe_of(chats, lora=lora, learning_rates=rates, training={"max_steps": 4, "save_steps": 2})
    run = train(four, tmp_path / "four")
    whole = run.manifest()["files"][WEIGHTS]
    forget_after(run, 2)
    assert train(four, run.directory, resume=True).manifest()["files"][WEIGHTS] == whole


def test_a_pattern_that_fits_nothing_is_told_before_the_first_step(chats: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="'embed_tokens' fits no weight that is trained") as caught:
        train(recipe_of(chats, learning_rates={"embed_tokens": 5e-5}), tmp_path / "run")
    assert "modules_to_save" in caught.value.hint
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_samples_are_taken_without_a_trace(plain: fastft.Run, chats: Path, tmp_path: Path) -> None:
    prompts = {"prompts": ["Say 3."], "sample_steps": 1, "max_new_tokens": 12}
    recipe = recipe_of(chats, training={"max_steps": 4, "save_steps": 2}, evaluation=prompts)
    run = train(recipe, tmp_path / "run")
    assert run.manifest()["files"][WEIGHTS] == plain.manifest()["files"][WEIGHTS]
    samples = [json.loads(line) for line in (run.directory / "samples.jsonl").read_text().splitlines()]
    assert [(sample["step"], sample["prompt"]) for sample in samples] == [(n, "Say 3.") for n in (1, 2, 3, 4)]
    final = json.loads((run.directory / "evaluation.json").read_text())["after"]["prompts"][0]["answer"]
    assert samples[-1]["answer"] == final
    forget_after(run, 2)
    train(recipe, run.directory, resume=True)
    assert [json.loads(line) for line in (run.directory / "samples.jsonl").read_text().splitlines()] == samples


def test_noise_on_embeddings_trains_otherwise_and_is_off_in_evaluation(
    plain: fastft.Run, chats: Path, tmp_path: Path
) -> None:
    noise = {"neftune_noise_alpha": 5.0, "max_steps": 4, "eval_strategy": "steps", "eval_steps": 4}
    with last_trainer() as trainers:
        run = train(recipe_of(chats, training=noise), tmp_path / "run")
    assert run.manifest()["evaluation"]["before"]["loss"] == plain.manifest()["evaluation"]["before"]["loss"]
    first = [next(p["loss"] for p in of.metrics() if "loss" in p) for of in (run, plain)]
    assert first[0] != first[1]
    # One batch of four rows: the mean over it is that over its tokens, and noise would move it.
    after = run.manifest()["evaluation"]["after"]["loss"]
    assert evaluations(run, "eval_loss")[4] == pytest.approx(after, rel=0.05)
    again = [trainers[0].evaluate()["eval_loss"] for _ in range(2)]
    assert again[0] == again[1]


def test_tensorboard_gets_the_run_and_its_recipe(chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import (  # pyright: ignore[reportMissingImports]
        EventAccumulator,
    )

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    with last_trainer() as trainers:
        train(recipe_of(chats, training={"report_to": "tensorboard"}), tmp_path / "named")
    assert trainers[0].args.run_name == "named"
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [point.step for point in board.Scalars("train/loss")] == [1, 2, 3]
    recipe = board.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "    model_name: fastft/tiny" in recipe


def test_wandb_gets_the_run_and_its_recipe(chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb: Any = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    train(recipe_of(chats, training={"report_to": "wandb"}), tmp_path / "named")
    assert wandb.run.name == "named"
    assert wandb.run.config["recipe"] == (tmp_path / "named" / "recipe.yaml").read_text()
    wandb.finish()
