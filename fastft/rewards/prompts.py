"""Online training against its prompts: their number, and the columns that rewards need; before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.data.formats.prompt_only import further
from fastft.errors import Fault, RecipeError
from fastft.recipe.suggest import listed, nearest
from fastft.rewards.builtin import number_of
from fastft.rewards.function_files import GIVEN, names_in, signature_of, split_name
from fastft.trainers.groups import prompts_at_a_time

if TYPE_CHECKING:
    from fastft.data.conversation import Conversation
    from fastft.data.prepare import PreparedData
    from fastft.recipe.rewards_section import RewardSection
    from fastft.recipe.schema import Recipe

_RESERVED = (*GIVEN, "completion")


def require_prompts(recipe: Recipe, data: PreparedData, arguments: Mapping[str, Any]) -> None:
    """Raises RecipeError where the prompts are fewer than one batch, or don't have what a reward needs of them."""
    if not recipe.rewards:
        return
    if faults := [*_too_few(recipe, len(data.train), arguments), *_missing_columns(recipe, data)]:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise RecipeError(f"{recipe.source or 'recipe'} has {count}:", faults=faults)


def _too_few(recipe: Recipe, prompts: int, arguments: Mapping[str, Any]) -> Iterator[Fault]:
    wanted = prompts_at_a_time(arguments)
    if prompts < wanted:
        group, answers = arguments["num_generations"], wanted * arguments["num_generations"]
        yield recipe.fault(
            "data.path", f"found {prompts} prompts to train on", f"at least {wanted}",
            f"A batch of {answers} answers, {group} to a prompt, takes so many: lower "
            "training.gradient_accumulation_steps or training.per_device_train_batch_size",
        )  # fmt: skip


def _missing_columns(recipe: Recipe, data: PreparedData) -> Iterator[Fault]:
    columns = columns_of((*data.train_conversations, *data.evaluation_conversations))
    taken = [name for name in columns if name in _RESERVED]
    for name in taken:
        hint = "Rewards get something else by that name"
        yield recipe.fault("data.path", f"found the column {name}", "another name", hint)
    for index, reward in enumerate(recipe.rewards):
        given = {*columns, *GIVEN, *reward.arguments}
        for found, expected, hint in _unmet(reward, given, columns, data):
            yield recipe.fault(f"rewards.{index}", found, expected, hint)


def columns_of(conversations: Iterable[Conversation]) -> list[str]:
    """The further columns of prompts, in the order they were first seen."""
    names: dict[str, None] = {}
    for conversation in conversations:
        names.update(dict.fromkeys(further(conversation)))
    return list(names)


def _unmet(
    reward: RewardSection, given: set[str], columns: list[str], data: PreparedData
) -> Iterator[tuple[str, str, str]]:
    """found, expected, hint"""
    have = f"The prompts have {listed(columns)}" if columns else "The prompts have no further columns"
    if (column := reward.column) is not None:
        if column not in columns:
            near = nearest(column, columns)
            hint = f"Did you mean {near}? {have}" if near else have
            yield (
                f"{reward.builtin} compares with the column {column}, which is not there",
                "a column of the data",
                hint,
            )
        else:
            yield from _unfit(reward, column, (*data.train_conversations, *data.evaluation_conversations))
    if reward.function is not None:
        for name in _needed(reward.function, given):
            yield f'"{reward.name}" needs "{name}"', "a column of the data or one of arguments", have


def _unfit(reward: RewardSection, column: str, conversations: Iterable[Conversation]) -> Iterator[tuple[str, str, str]]:
    """The first row that has nothing to compare with."""
    wanted = "a number" if reward.builtin == "numeric" else "a text or a number"
    for conversation in conversations:
        value = further(conversation).get(column)
        if not _fits(str(reward.builtin), value):
            shown = "nothing" if value is None else repr(value)
            yield f"{conversation.place} has {shown[:60]} for {column}", f"{wanted} in every row", ""
            return


def _fits(builtin: str, value: Any) -> bool:
    return number_of(value) is not None if builtin == "numeric" else isinstance(value, str | int | float)


def _needed(function: str, given: set[str]) -> list[str]:
    """What a function can't be called without and won't get."""
    file, name = split_name(function)
    signature = signature_of(names_in(Path(file).read_text(encoding="utf-8"), file)[name])
    return [key for key in signature.needed if key not in given] if signature else []
