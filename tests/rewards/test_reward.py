"""A reward gives one number a completion, or says in one line what it gave instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastft.errors import TrainingError
from fastft.recipe.rewards_section import RewardSection, reward_names
from fastft.rewards.reward import Reward, load_rewards

PROMPTS = [[{"role": "user", "content": "How many?"}], [{"role": "user", "content": "Where?"}]]
COMPLETIONS = [[{"role": "assistant", "content": "5"}], [{"role": "assistant", "content": "In Oldtown."}]]


def _call(function: Any, arguments: dict[str, Any] | None = None, **columns: Any) -> list[float | None]:
    return Reward("mine", function, arguments)(
        prompts=PROMPTS, completions=COMPLETIONS, completion_ids=[[1], [2, 3]], trainer_state=None, **columns
    )


def test_a_function_gets_what_it_asks_for_and_no_more() -> None:
    def mine(completions, answer, scale=1):
        return [scale * (said[0]["content"] == a) for said, a in zip(completions, answer, strict=True)]

    assert _call(mine, answer=["5", "6"], other=[1, 2]) == [1.0, 0.0]
    assert _call(mine, {"scale": 2}, answer=["5", "6"]) == [2.0, 0.0]


def test_a_function_with_keywords_gets_everything() -> None:
    def mine(**given):
        assert set(given) == {"prompts", "completions", "completion_ids", "trainer_state", "answer"}
        return [len(ids) for ids in given["completion_ids"]]

    assert _call(mine, answer=[1, 2]) == [1.0, 2.0]


def test_what_counts_as_numbers() -> None:
    import numpy as np
    import torch

    async def waited(prompts):
        return [0.5 for _ in prompts]

    assert _call(waited) == [0.5, 0.5]
    assert _call(lambda: (True, None)) == [1.0, None]
    assert _call(lambda: np.array([1, 2], np.float32)) == [1.0, 2.0]
    assert _call(lambda: [np.float32(0.25), np.int64(3)]) == [0.25, 3.0]
    assert _call(lambda: torch.tensor([0.5, 1.0])) == [0.5, 1.0]


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ([1.0], 'returned 1 values, [1.0]; expected a list of 2 numbers, one a completion. The prompt: "How many?"'),
        (0.5, "returned 0.5; expected a list of 2 numbers"),
        (None, "returned None; expected a list"),
        ("ab", 'returned "ab"; expected a list'),
        ([1.0, "2"], 'returned "2" for completion 2 of 2; expected a finite number. The prompt: "Where?"'),
        ([float("nan"), 1.0], "returned nan for completion 1 of 2"),
        ([1.0, float("inf")], "returned inf for completion 2 of 2"),
        ([[1.0], [2.0]], "returned [1.0] for completion 1 of 2"),
    ],
)
def test_anything_else_is_told_in_one_line(returned: object, words: str) -> None:
    with pytest.raises(TrainingError) as caught:
        _call(lambda: returned)
    assert words in str(caught.value)
    assert 'the reward "mine" returned' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failure_names_the_line_of_the_function(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def fails(completions, **_):\n    return [c['text'] for c in completions]\n")
    (reward,) = load_rewards((RewardSection.model_validate(f"{file}:fails"),))
    with pytest.raises(TrainingError) as caught:
        reward(prompts=PROMPTS, completions=COMPLETIONS, completion_ids=[[1], [2]])
    assert f'the reward "fails" failed at {file}:2: TypeError: list indices must be' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_rewards.py").write_text("ONE = 1.0\n")
    text = "from beside_rewards import ONE\ndef mine(prompts): return [ONE for _ in prompts]\n"
    (tmp_path / "mine.py").write_text(text)
    (reward,) = load_rewards((RewardSection.model_validate(f"{tmp_path / 'mine.py'}:mine"),))
    assert reward(prompts=PROMPTS, completions=COMPLETIONS) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [("raise ValueError('no')\nmine = None\n", "can't be loaded: ValueError: no"), ("mine = 3\n", "mine is int")],
)
def test_a_file_that_fails_is_told(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(TrainingError, match=words):
        load_rewards((RewardSection.model_validate(f"{tmp_path / 'mine.py'}:mine"),))


def test_builtins_are_called_with_their_columns() -> None:
    sections = tuple(
        RewardSection.model_validate(given)
        for given in (
            "exact",
            {"builtin": "numeric", "arguments": {"column": "n"}},
            {"builtin": "regex", "arguments": {"pattern": "^In "}},
            {"builtin": "length", "arguments": {"most": 1}},
            {"builtin": "exact", "arguments": {"column": "n"}},
        )
    )
    assert reward_names(sections) == ["exact", "numeric", "regex", "length", "exact_2"]
    given = {"prompts": PROMPTS, "completions": COMPLETIONS, "completion_ids": [[1], [2, 3]]}
    given |= {"answer": ["5", "Oldtown"], "n": [5, 6], "trainer_state": None}
    values = [reward(**given) for reward in load_rewards(sections)]
    assert values == [[1, 0], [1, 0], [0, 1], [1, 0], [1, 0]]
