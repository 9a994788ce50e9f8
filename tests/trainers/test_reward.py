"""Reward models: trained, scored, merged and proven, and refused where text is wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fastft
from fastft.errors import DatasetError, ExportError, ModelError, RecipeError

ROOT = Path(__file__).resolve().parent.parent.parent
PAIRS, HELD_OUT = (ROOT / "recipes" / "data" / f"preference_tiny{end}.jsonl" for end in ("", "_heldout"))


def _recipe(**training: Any) -> dict[str, Any]:
    return {
        "model": {"model_name": "fastft/tiny", "max_seq_length": 128},
        "lora": {"r": 8, "use_gradient_checkpointing": False},
        "data": {"path": str(PAIRS), "eval_split": str(HELD_OUT)},
        "method": "reward",
        "training": {"max_steps": 24, "per_device_train_batch_size": 8, "learning_rate": 1e-3, **training},
        "export": {"formats": []},
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fastft.Run:
    return fastft.train(_recipe(), output_dir=tmp_path_factory.mktemp("runs") / "judge")


def _conversations(side: str) -> list[list[dict[str, Any]]]:
    rows = [json.loads(line) for line in HELD_OUT.read_text().splitlines()]
    return [[*row["prompt"], *row[side]] for row in rows]


@pytest.mark.slow
def test_it_learns_to_rank_pairs_it_never_saw(run: fastft.Run) -> None:
    before, after = (run.manifest()["evaluation"][when]["metrics"] for when in ("before", "after"))
    assert before["accuracy"] < 0.7
    assert after["accuracy"] > 0.9
    assert after["loss"] < 0.6 * before["loss"]


@pytest.mark.slow
def test_the_run_scores_conversations_as_its_trainer_did(run: fastft.Run) -> None:
    from fastft.reward_model import RewardModel

    model = RewardModel.load(run.directory)
    good, bad = model.scores(_conversations("chosen")), model.scores(_conversations("rejected"))
    right = sum(a > b for a, b in zip(good, bad, strict=True)) / len(good)
    metrics = run.manifest()["evaluation"]["after"]["metrics"]
    assert right == pytest.approx(metrics["accuracy"], abs=0.04)  # TRL averages batches; 4 bits there, 16 here
    margin = sum(a - b for a, b in zip(good, bad, strict=True)) / len(good)
    assert margin == pytest.approx(metrics["margin"], rel=0.15)
    # Padding changes nothing: the same conversation alone and beside longer ones.
    assert model.scores(_conversations("chosen")[:1])[0] == pytest.approx(good[0], abs=1e-4)


@pytest.mark.slow
def test_what_can_not_be_scored_is_told(run: fastft.Run) -> None:
    from fastft.reward_model import RewardModel

    model = RewardModel.load(run.directory)
    asked = {"role": "user", "content": "Hello!"}
    with pytest.raises(DatasetError, match="conversation 1 can't be scored: the row has no assistant turn"):
        model.scores([[asked]])
    with pytest.raises(DatasetError, match="longer than max_length"):
        model.scores([[asked, {"role": "assistant", "content": "word " * 300}]])


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [[{"role": "user", "content": "Hi"}], ["Hi"], [{"messages": []}], [[{"from": "human", "value": "Hi"}]], [[3]]],
)
def test_what_is_no_list_of_conversations_is_told(run: fastft.Run, wrong: Any) -> None:
    from fastft.reward_model import RewardModel

    with pytest.raises(DatasetError, match="conversation 1"):
        RewardModel.load(run.directory).scores(wrong)


@pytest.mark.slow
def test_its_adapter_is_none_of_a_model_of_text(run: fastft.Run) -> None:
    recipe = _recipe() | {"lora": {"adapter_name_or_path": str(run.directory)}, "method": "dpo"}
    with pytest.raises(RecipeError, match="is a reward model's"):
        fastft.check(recipe)


@pytest.mark.slow
def test_the_merged_model_is_proven_and_a_wrong_one_is_caught(run: fastft.Run) -> None:
    from safetensors.torch import load_file, save_file

    from fastft.files import sha256_of
    from fastft.reward_model import RewardModel
    from fastft.verification import verify_export

    (folder,) = run.export(["merged_16bit"])
    assert json.loads((folder / "verification.json").read_text())["passed"]
    ours = RewardModel.load(run.directory).scores(_conversations("chosen"))
    merged = RewardModel.of_folder(folder, max_length=128).scores(_conversations("chosen"))
    assert merged == pytest.approx(ours, abs=0.1)  # scores lie several units apart
    weights = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in weights
    assert tuple(weights["score.weight"].shape) == (1, 256)

    name = "model.layers.2.mlp.down_proj.weight"
    for wrong in ({"score.weight": -weights["score.weight"]}, {name: weights[name] * 1.2}):
        save_file({**weights, **wrong}, folder / "model.safetensors", {"format": "pt"})
        export = json.loads((folder / "export.json").read_text())
        export["files"]["model.safetensors"] = sha256_of(folder / "model.safetensors")
        (folder / "export.json").write_text(json.dumps(export))
        found = verify_export(run.directory, "merged_16bit")
        assert next(check.name for check in found.failures) == "weights merged", found.as_dict()
        assert "scores" in [check.name for check in found.failures]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.slow
def test_a_reward_model_is_no_model_of_text(run: fastft.Run) -> None:
    with pytest.raises(ExportError, match="judge/adapter is a reward model, and gguf is for models that write text"):
        run.export(["gguf"])
    recipe = _recipe() | {"model": {"model_name": str(run.directory), "max_seq_length": 128}}
    with pytest.raises(ModelError, match="is a reward model, which writes no text"):
        fastft.check(recipe)
    with pytest.raises(ModelError, match="is a reward model"):
        run.chat("Hello!")


@pytest.mark.slow
def test_losses_are_those_of_trls_own_trainer(tmp_path: Path) -> None:
    """The same model in float32, the same batches and seed.

    TRL's own rendering ends with the line break that the template writes after the end of a turn, where no score is
    read in use; but for that token the ids are ours, so its trainer gets them without.
    """
    from datasets import Dataset
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    from fastft.model import load_model
    from fastft.recipe.load import load_recipe
    from fastft.trainers.method import Job
    from fastft.trainers.reward import build_trainer

    recipe = _recipe(max_steps=4)
    recipe["model"] |= {"dtype": "float32", "load_in_16bit": True}
    checked = fastft.check(recipe)
    loaded = load_recipe(recipe)
    arguments = {
        "max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "bf16": False, "seed": 1,
        "max_length": 128, "logging_steps": 1, "gradient_checkpointing": False, "save_strategy": "no",
    }  # fmt: skip

    def losses(trainer: Any) -> list[float]:
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    model, tokenizer = load_model(loaded.model, loaded.lora, classifies=True)
    ours = losses(build_trainer(Job(model, tokenizer, checked.data, arguments, tmp_path / "a")))
    model, tokenizer = load_model(loaded.model, loaded.lora, classifies=True)
    rows = Dataset.from_list([json.loads(line) for line in PAIRS.read_text().splitlines()])
    config = RewardConfig(str(tmp_path / "b"), report_to="none", disable_tqdm=True, **arguments)
    own: Any = RewardTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer).train_dataset
    cut = own.map(lambda row: {side: row[side][:-1] for side in ("chosen_ids", "rejected_ids")})
    assert [{row["chosen_ids"][-1] for row in own}] == [set(tokenizer("\n")["input_ids"])]
    assert cut["chosen_ids"] == [example.input_ids for example in checked.data.train][::2]
    theirs = losses(RewardTrainer(model=model, args=config, train_dataset=cut, processing_class=tokenizer))
    assert len(ours) == 4
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"export": {"formats": ["gguf"], "quantization_method": ["q8_0"]}}, "found gguf with method: reward"),
        ({"evaluation": {"prompts": ["Hello!"]}}, "found prompts with method: reward"),
        ({"training": {"beta": 0.1}}, "beta is for method"),
        ({"training": {"center_rewards_coefficient": "much"}}, "center_rewards_coefficient"),
    ],
)
def test_what_a_reward_model_can_not_do_is_told_before_anything_loads(change: dict[str, Any], found: str) -> None:
    with pytest.raises(RecipeError, match=found):
        fastft.check(_recipe() | change)


def test_data_without_pairs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    path.write_text(json.dumps({"messages": turns}) + "\n")
    with pytest.raises(DatasetError, match="this method learns from preference pairs"):
        fastft.check(_recipe() | {"data": {"path": str(path)}})
