"""A reward as TRL's trainers call it, held to one number for each completion."""

from __future__ import annotations

import inspect
import json
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from fastft.errors import TrainingError
from fastft.recipe.rewards_section import RewardSection, reward_names
from fastft.rewards import builtin
from fastft.rewards.function_files import load_function

Values = list[float | None]


class Reward:
    """`function` with a name, called by keywords. It may return None for an answer that it says nothing of."""

    def __init__(self, name: str, function: Callable[..., Any], arguments: Mapping[str, Any] | None = None) -> None:
        self.__name__ = name
        self._function = function
        self._arguments = dict(arguments or {})
        parameters = inspect.signature(function).parameters.values()
        takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        self._takes = None if takes_all else {p.name for p in parameters}

    def __call__(self, *, prompts: Sequence[Any], completions: Sequence[Any], **given: Any) -> Values:
        """One number, or None, for each completion.

        Raises TrainingError, naming the function, the prompt and what came back, if it fails or returns anything else.
        """
        given = {"prompts": prompts, "completions": completions, **given, **self._arguments}
        taken = given if self._takes is None else {key: given[key] for key in given if key in self._takes}
        try:
            values = self._function(**taken)
            if inspect.isawaitable(values):
                values = _awaited(values)
        except TrainingError:
            raise
        except Exception as error:  # whatever a person's function may raise
            raise TrainingError(self._said(f"failed{_place(error)}: {_described(error)}", prompts)) from error
        return self._checked(values, prompts)

    def _checked(self, values: Any, prompts: Sequence[Any]) -> Values:
        values = values.tolist() if hasattr(values, "tolist") else values  # an array or a tensor
        expected = f"expected a list of {len(prompts)} numbers, one a completion"
        if not isinstance(values, list | tuple):
            raise TrainingError(self._said(f"returned {_short(values)}; {expected}", prompts))
        if len(values) != len(prompts):
            raise TrainingError(self._said(f"returned {len(values)} values, {_short(values)}; {expected}", prompts))
        for index, value in enumerate(values):
            if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
                found = (
                    f"returned {_short(value)} for completion {index + 1} of {len(values)}; expected a finite number"
                )
                raise TrainingError(self._said(found, prompts[index:]))
        return [None if value is None else float(value) for value in values]

    def _said(self, what: str, prompts: Sequence[Any]) -> str:
        return f'the reward "{self.__name__}" {what}. The prompt: {_short(_last_text(prompts[0]))}'


def load_rewards(rewards: tuple[RewardSection, ...]) -> list[Reward]:
    """The recipe's rewards, ready to be called. Raises TrainingError if a function's file can't be loaded."""
    return [_load(reward, name) for reward, name in zip(rewards, reward_names(rewards), strict=True)]


def _load(reward: RewardSection, name: str) -> Reward:
    if reward.function is not None:
        return Reward(name, load_function(reward.function), reward.arguments)
    if reward.run is not None:
        return Reward(name, _of_model(reward.run))
    return Reward(name, _of_builtin(reward))


def _of_builtin(reward: RewardSection) -> Callable[..., list[float]]:
    def measure(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
        answers = [answer_text(completion) for completion in completions]
        match reward.builtin:
            case "regex":
                return builtin.regex(answers, **reward.arguments)
            case "length":
                return builtin.length(answers, completion_ids, **reward.arguments)
        compare = builtin.exact if reward.builtin == "exact" else builtin.numeric
        return compare(answers, columns[str(reward.column)])

    return measure


def _of_model(run: str) -> Callable[..., list[float]]:
    """Scores of a trained reward model for prompt and answer together."""
    from fastft.reward_model import RewardModel

    model = RewardModel.load(run)

    def score(prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
        return model.scores([[*prompt, *said] for prompt, said in zip(prompts, completions, strict=True)])

    return score


def answer_text(completion: Any) -> str:
    """What the model said in words."""
    if isinstance(completion, str):
        return completion
    return "".join(str(message.get("content") or "") for message in completion)


def _awaited(values: Any) -> Any:
    import asyncio

    async def wait() -> Any:
        return await values

    return asyncio.run(wait())


def _last_text(prompt: Any) -> Any:
    return prompt[-1].get("content", "") if isinstance(prompt, list) and prompt else prompt


def _place(error: Exception) -> str:
    """The line of the function's own file at which it failed."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    return f" at {frames[0].filename}:{frames[0].lineno}" if frames else ""


def _described(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _short(value: Any) -> str:
    """On one line, which is what of an error is shown."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:117] + "..."
