"""GRPO: TRL's own losses to the fifth digit, on our ids; its steps, its answers on disk, and going on where it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from fastft.backend import import_unsloth
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import TrainingError
from fastft.trainers.defaults import steps_of
from fastft.trainers.measuring import measure
from tests.trainers import online_cases as cases

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def unsloth() -> None:
    import_unsloth()


def _ours(tiny: Path, folder: Path, arguments: dict[str, Any] | None = None) -> Any:
    from fastft.trainers.grpo import build_trainer

    folder.mkdir(exist_ok=True)
    return build_trainer(cases.job_of_rows(tiny, arguments or {}, folder, cases.our_rewards(folder)))


@pytest.mark.parametrize("arguments", [{"beta": 0.0}, {"beta": 0.1, "num_iterations": 2}])
def test_losses_are_those_of_trl(tiny: Path, tmp_path: Path, arguments: dict[str, Any]) -> None:
    """The same seed, model and rewards; TRL renders the prompts, ours are given as ids."""
    import torch
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportPrivateImportUsage]

    theirs = cases.trl_trainer(tiny, arguments, tmp_path, GRPOTrainer, GRPOConfig)
    theirs.train()
    ours = _ours(tiny, tmp_path / "ours", arguments)
    assert "ref" not in ours.model.peft_config  # the reference is the model without its adapter
    ours.train()
    logged = cases.losses(ours)
    assert len(logged) == 3
    for ours_at, theirs_at in zip(logged, cases.losses(theirs), strict=True):
        assert ours_at == pytest.approx(theirs_at, abs=1e-5)
    assert any(abs(entry["grad_norm"]) > 1e-3 for entry in logged)
    other = cases.adapter_of(theirs)
    for name, weight in cases.adapter_of(ours).items():
        assert torch.allclose(weight, other[name], atol=1e-5), name
    if arguments["beta"]:
        assert logged[0]["kl"] == pytest.approx(0, abs=1e-6)  # before the first step it is its own reference
        assert logged[-1]["kl"] > 0


def test_every_answer_is_written_down_with_its_rewards(tiny: Path, tmp_path: Path) -> None:
    trainer = _ours(tiny, tmp_path, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4})
    before = measure(trainer)
    assert not (tmp_path / "completions.jsonl").exists()  # what is measured is not trained on
    assert set(before) >= {"reward", "completions/mean_length", "completions/clipped_ratio"}
    trainer.train()
    lines = cases.completions_in(tmp_path)
    assert [line["step"] for line in lines] == [1] * 8 + [2] * 8 + [3] * 8
    by_prompt = {row["prompt"]: row for row in cases.ROWS}
    for line in lines:
        (message,) = line["prompt"]
        row = by_prompt[message["content"]]
        assert line["rewards"]["names_town"] == float(row["town"] in line["completion"])
        assert line["reward"] == pytest.approx(line["rewards"]["names_town"] + 0.5 * line["rewards"]["length"])
    for start in range(0, len(lines), 4):  # whole groups
        assert len({line["prompt"][0]["content"] for line in lines[start : start + 4]}) == 1
    logged = [entry["reward"] for entry in cases.losses(trainer)]
    means = [sum(line["reward"] for line in lines if line["step"] == step) / 8 for step in (1, 2, 3)]
    assert logged == pytest.approx(means, abs=1e-6)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_resumed_run_ends_as_one_that_was_not(tiny: Path, tmp_path: Path, step: int) -> None:
    """Two epochs of two steps: resumed within the first, between them, and within the second."""
    import torch

    arguments = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    whole = _ours(tiny, tmp_path / "whole", arguments)
    whole.train()
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    again = cases.resumed_from(lambda folder: _ours(tiny, folder, arguments), tmp_path / "again", step)
    assert cases.completions_in(tmp_path / "again") == cases.completions_in(tmp_path / "whole")
    other = cases.adapter_of(whole)
    assert all(torch.equal(weight, other[name]) for name, weight in cases.adapter_of(again).items())


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "num_train_epochs": 2.5},
        {"num_iterations": 3, "num_train_epochs": 2},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "steps_per_generation": 2},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "steps_per_generation": 5},
        {"per_device_train_batch_size": 4, "generation_batch_size": 12},
        {"max_steps": 9},
    ],
)
def test_the_planned_steps_are_the_trainers(tiny: Path, tmp_path: Path, arguments: dict[str, Any]) -> None:
    given = {**cases.ARGUMENTS, "num_train_epochs": 1, "max_steps": -1, **arguments}
    trainer = _ours(tiny, tmp_path, given)
    *_, max_steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    assert steps_of(given, len(cases.ROWS)) == max_steps


def test_the_ids_are_those_that_were_checked(tiny: Path, tmp_path: Path) -> None:
    trainer = _ours(tiny, tmp_path)
    chat = ChatTokenizer.load(tiny)
    assert set(trainer.eos_token_ids) == {chat.end_of_turn_id, chat.eos_token_id}
    fed: list[list[int]] = []
    generate = trainer._generate_single_turn

    def watched(prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        fed.extend(prompt_ids)
        return generate(prompt_ids, *args, **kwargs)

    trainer._generate_single_turn = watched
    measure(trainer)
    wanted = [chat.prompt_ids([{"role": "user", "content": row["prompt"]}]) for row in cases.ROWS]
    assert sorted(fed) == sorted(wanted)


def test_a_failing_reward_stops_training_in_one_line(tiny: Path, tmp_path: Path) -> None:
    from fastft.trainers.grpo import build_trainer

    (tmp_path / "mine.py").write_text("def mine(completions, **_):\n    return [1.0]\n")
    trainer = build_trainer(cases.job_of_rows(tiny, {}, tmp_path, [f"{tmp_path / 'mine.py'}:mine"]))
    with pytest.raises(
        TrainingError, match=r'the reward "mine" returned 1 values, \[1.0\]; expected a list of 8'
    ) as caught:
        trainer.train()
    assert 'The prompt: "Note: ' in str(caught.value)


_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Look a town up.",
            "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
        },
    }
]


@pytest.mark.parametrize("name", ["tiny", "qwen_tokenizer", "llama_tokenizer"])
@pytest.mark.parametrize("tools", [None, _TOOLS], ids=["plain", "tools"])
def test_our_ids_are_what_trl_would_render(name: str, tools: Any, request: pytest.FixtureRequest) -> None:
    """Llama's template writes today's date, which ours holds still."""
    from transformers import AutoTokenizer

    folder = request.getfixturevalue(name)
    theirs, ours = AutoTokenizer.from_pretrained(folder), ChatTokenizer.load(folder)
    dated = {"date_string": "26 Jul 2024"} if name == "llama_tokenizer" else {}
    prompts = [
        [{"role": "user", "content": "Where is Ana from?"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "größte 你好 🙂"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
    ]
    rendered = theirs.apply_chat_template(
        conversation=prompts, tools=tools, add_generation_prompt=True, tokenize=True, return_dict=True, **dated
    )["input_ids"]
    assert rendered == [ours.prompt_ids(prompt, tools=tools) for prompt in prompts]
