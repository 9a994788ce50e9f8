"""grpo and rloo: what a recipe may say of rewards and of groups, each fault told once before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastft.checking import check
from fastft.errors import FastftError, RecipeError
from fastft.recipe.load import load_recipe
from fastft.recipe.online_rules import CHOICES

RECIPE = """\
model: {{model_name: fastft/tiny, max_seq_length: 128}}
lora: {{r: 4}}
data: {{path: prompts.jsonl, format: prompt_only, eval_split: 2}}
method: {method}
rewards: {rewards}
training: {{max_completion_length: 16{training}}}
"""

FUNCTIONS = """\
from functools import partial

def likes(completions, town, **_): return [1.0 for _ in completions]

def strict(completions, scale=1): return [scale for _ in completions]

def needy(completions, missing): return [1.0 for _ in completions]

made = partial(likes, town=[])
"""


@pytest.fixture
def recipe(tmp_path: Path):
    rows = "".join(f'{{"prompt": "Where {i}?", "town": "T{i}", "n": {i}}}\n' for i in range(10))
    (tmp_path / "prompts.jsonl").write_text(rows)
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "mine.py").write_text(FUNCTIONS)
    (tmp_path / "rewards" / "broken.py").write_text("def likes(:\n")
    (tmp_path / "rewards" / "text.txt").write_text("")

    def write(
        rewards: str = "[{builtin: exact, arguments: {column: town}}]", method: str = "grpo", training: str = ""
    ) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE.format(method=method, rewards=rewards, training=training and f", {training}"))
        return path

    return write


def test_rewards_come_out_absolute_and_survive_their_own_yaml(recipe, tmp_path: Path) -> None:
    source = recipe("[rewards/mine.py:likes, {function: 'rewards/mine.py:made', weight: 0.5}]")
    loaded = load_recipe(source)
    assert [reward.function for reward in loaded.rewards] == [
        f"{tmp_path}/rewards/mine.py:likes", f"{tmp_path}/rewards/mine.py:made"
    ]  # fmt: skip
    assert [reward.weight for reward in loaded.rewards] == [1.0, 0.5]
    again = tmp_path / "again.yaml"
    again.write_text(loaded.to_yaml())
    assert load_recipe(again) == loaded


def _only_fault(source: Path) -> str:
    """The whole of a fault, which has to be the only one."""
    with pytest.raises(FastftError) as caught:
        check(source)
    assert isinstance(caught.value, RecipeError)
    assert len(caught.value.faults) == 1, caught.value
    return str(caught.value.faults[0])


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        ("[]", "recipe.yaml:4 method: found grpo without rewards"),
        ("[rewards/mine.py]", "found .*rewards/mine.py.*; expected file.py:function"),
        ("[rewards/none.py:likes]", "there is no file .*Tried "),
        ("[rewards/text.txt:likes]", "which is no Python file"),
        ("[rewards/broken.py:likes]", "broken.py is no valid Python at line 1"),
        ("[rewards/mine.py:like]", "defines no like; .*Did you mean likes"),
        ("[{function: 'rewards/mine.py:strict', arguments: {size: 2}}]", "strict takes no size.*completions, scale"),
        ("[rewards/mine.py:needy]", 'recipe.yaml:5 rewards.0.: "needy" needs "missing"; .*The prompts have town, n'),
        ("[exact]", "exact compares with the column answer, which is not there; .*The prompts have town, n"),
        ("[{builtin: exact, arguments: {column: twon}}]", "the column twon.*Did you mean town"),
        ("[{builtin: exact, arguments: {column: n}, weight: 0}, {builtin: exact, arguments: {column: n}, weight: 0}]",
         "weight 0 for every reward"),
        ("[{builtin: regex}]", "regex without arguments.pattern"),
        ("[{builtin: regex, arguments: {pattern: '(a'}}]", "'\\(a' for arguments.pattern.*Python says: missing \\)"),
        ("[{builtin: length, arguments: {most: 0}}]", "found 0 for arguments.most"),
        ("[{builtin: length, arguments: {most: 4, unit: words}}]", "words.*tokens or characters"),
        ("[{builtin: exact, arguments: {pattern: a}}]", "found arguments.pattern; expected arguments of exact: column"),
        ("[{builtin: exakt}]", "Did you mean exact"),
        ("[{builtin: exact, function: 'rewards/mine.py:likes'}]", "found function, builtin; expected exactly one"),
        ("[{weight: 1}]", "found none; expected exactly one of function, builtin and run"),
        ("[{builtin: exact, wieght: 2}]", "found the key wieght.*Did you mean weight"),
        ("[{builtin: exact, weight: heavy}]", "heavy.*a number"),
        ("[{run: judges/none}]", "there is no file .*a finished run of method reward"),
        ("[{run: rewards}]", "no finished run: it holds no manifest.json"),
        ("[5]", "found 5; expected file.py:function"),
    ],
)  # fmt: skip
def test_a_fault_in_rewards(recipe, rewards: str, words: str) -> None:
    assert re.search(words, _only_fault(recipe(rewards)), re.DOTALL)


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ("num_generations: 1", "recipe.yaml:6 training.num_generations: found 1; expected at least 2"),
        ("num_generations: 6, per_device_train_batch_size: 4, gradient_accumulation_steps: 2",
         "a generation batch of 8 answers with num_generations: 6; expected a multiple of 6. "
         "With per_device_train_batch_size: 4, gradient_accumulation_steps has to be a multiple of 3"),
        ("per_device_train_batch_size: 4, steps_per_generation: 3", "12 answers with num_generations: 8"),
        ("generation_batch_size: 20", "found 20 with num_generations: 8"),
        ("generation_batch_size: 20, per_device_train_batch_size: 8", "found 20 with per_device_train_batch_size: 8"),
        ("generation_batch_size: 16, steps_per_generation: 2", "found both"),
        ("num_generations_eval: 4, per_device_eval_batch_size: 6", "found 6 with num_generations_eval: 4"),
        ("loss_type: grppo", 'found "grppo"; expected one of grpo, dr_grpo.*Did you mean grpo'),
        ("importance_sampling_level: word", "expected one of token, sequence"),
        ("use_vllm: true", "vLLM isn't installed"),
        ("reward_weights: [1]", "cannot be set here. Set weight in rewards"),
        ("chat_template_kwargs: {a: 1}", "cannot be set here.*data.chat_template"),
        ("max_completion_length: 128", "recipe.yaml:6 training.max_completion_length: found 128.*below 128"),
        ("per_device_train_batch_size: 8, gradient_accumulation_steps: 9", "found 8 prompts to train on.*at least 9"),
        ("temperature: 0", "found 0"),
        ("beta: -1", "found -1"),
    ],
)  # fmt: skip
def test_a_fault_in_training(recipe, training: str, words: str) -> None:
    source = recipe(training=training)
    if "max_completion_length" in training:
        source.write_text(source.read_text().replace("max_completion_length: 16, ", ""))
    assert re.search(words, _only_fault(source), re.DOTALL)


def test_a_run_that_is_no_reward_model(recipe, tmp_path: Path) -> None:
    (tmp_path / "runs" / "chat").mkdir(parents=True)
    (tmp_path / "runs" / "chat" / "manifest.json").write_text("{}")
    (tmp_path / "runs" / "chat" / "recipe.yaml").write_text("method: sft\n")
    assert 'found "runs/chat", a run of method sft; expected the directory' in _only_fault(recipe("[{run: runs/chat}]"))


def test_prompts_that_an_epoch_leaves_out_are_told(recipe) -> None:
    """Eight prompts, three at a time."""
    checked = check(recipe(training="per_device_train_batch_size: 8, gradient_accumulation_steps: 3"))
    assert [w for w in checked.warnings if "2 of 8 prompts are left out of each epoch" in w]
    assert checked.plan.steps == 2


def test_rewards_are_for_methods_that_generate(recipe) -> None:
    source = recipe(method="sft")
    source.write_text(source.read_text().replace("max_completion_length: 16", "max_steps: 1"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(source)
    assert [f.found for f in caught.value.faults] == ["found rewards with method sft"]
    assert caught.value.faults[0].expected == "method grpo or rloo, or no rewards"


def test_an_adapter_on_the_output_layer_is_refused(recipe) -> None:
    source = recipe()
    source.write_text(source.read_text().replace("{r: 4}", "{r: 4, target_modules: [q_proj, lm_head]}"))
    assert "lm_head with method grpo" in _only_fault(source)


def test_a_column_that_every_row_needs(recipe, tmp_path: Path) -> None:
    source = recipe("[{builtin: numeric, arguments: {column: n}}]")
    with (tmp_path / "prompts.jsonl").open("a") as file:
        file.write('{"prompt": "And?", "n": "many"}\n')
    assert "prompts.jsonl:11 has 'many' for n; expected a number in every row" in _only_fault(source)


def test_a_column_with_the_name_of_something_else(recipe, tmp_path: Path) -> None:
    source = recipe()
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a", "town": "b", "completions": 1}\n' * 10)
    source.write_text(source.read_text().replace("eval_split: 2", ""))
    assert "found the column completions; expected another name" in _only_fault(source)


def test_choices_are_those_of_the_installed_trl() -> None:
    """They are written in the help texts of the config and, in part, only there."""
    from fastft.recipe.trl_config import config_fields

    fields = config_fields("grpo")
    for key, allowed in CHOICES.items():
        assert all(re.search(rf"\b{choice}\b", fields[key].help) for choice in allowed), key
    named = re.search(r"Supported values are (.*?)\. ", fields["loss_type"].help)
    assert named is not None
    assert set(re.findall(r"'(\w+)'", named[1])) == set(CHOICES["loss_type"])


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_defaults_make_whole_groups(recipe, method: str) -> None:
    checked = check(recipe(method=method, training="num_generations: 6"))
    arguments = checked.arguments
    assert arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] % 6 == 0
    assert arguments["num_train_epochs"] == 1
    assert checked.plan.steps == 2  # 8 prompts, 4 a step
    assert [len(example.labels) == example.labels.count(-100) for example in checked.data.train] == [True] * 8
