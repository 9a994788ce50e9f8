"""What would fit, where a plan doesn't."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastft.planning.cards import Card
    from fastft.planning.plan import Plan
    from fastft.planning.shape import Shape
    from fastft.planning.work import Work
    from fastft.recipe.schema import Recipe


def advice(plan: Plan, recipe: Recipe) -> str:
    """The nearest thing that fits, in a few words, from the limits that a plan already holds."""
    if plan.largest_batch:
        return f"training.per_device_train_batch_size={plan.largest_batch} fits"
    if plan.longest_sequence and plan.longest_sequence >= _SHORTEST:
        return f"a batch size of 1 with training.max_length={_rounded(plan.longest_sequence)} fits"
    if not (recipe.model.load_in_4bit or recipe.model.full_finetuning):
        return "model.load_in_4bit=true takes a quarter of the weights' memory"
    return "no batch is small enough: take a smaller model or a larger device"


_SHORTEST = 256  # tokens; a plan that says less of a recipe's text fits is no help


def remedies(
    shape: Shape, recipe: Recipe, arguments: Mapping[str, Any], work: Work, card: Card
) -> list[tuple[str, int]]:
    """(overrides, bytes at the peak) of changes that make a recipe fit on a card, the least change first.

    Empty if no change does: then the weights alone are more than the card has.
    """
    from fastft.planning.plan import memory_of

    found: list[tuple[str, int]] = []
    for changes, changed in _changes(recipe, arguments):
        for batch in _halvings(int(arguments["per_device_train_batch_size"])):
            memory = memory_of(shape, changed, {**arguments, "per_device_train_batch_size": batch}, work, card)
            if memory.total <= card.memory:
                found.append((_spelled(changes, batch, arguments), memory.total))
                break
        else:
            continue
        if not changes:
            break  # a smaller micro-batch is enough, and changes nothing that is learned
    return found or _shorter(shape, recipe, arguments, work, card) or _otherwise(shape, recipe, arguments, work, card)


def _otherwise(
    shape: Shape, recipe: Recipe, arguments: Mapping[str, Any], work: Work, card: Card
) -> list[tuple[str, int]]:
    """The first of `_last_changes` that fits, one sequence at a time."""
    from fastft.planning.plan import memory_of

    one = {**arguments, "per_device_train_batch_size": 1}
    if recipe.lora is None:
        one["gradient_checkpointing"] = True
    for said, changed in _last_changes(recipe):
        changes, smallest = _changes(changed, one)[-1]
        memory = memory_of(shape, smallest, one, work, card)
        if memory.total <= card.memory:
            return [(_spelled((said, *changes), 1, arguments), memory.total)]
    return []


def _changes(recipe: Recipe, arguments: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Recipe]]:
    """Recipes that take less memory, each with the overrides that make it of this one."""
    changes: list[tuple[tuple[str, ...], Recipe]] = [((), recipe)]
    if recipe.lora is not None and recipe.lora.use_gradient_checkpointing != "unsloth":
        kept = recipe.lora.model_copy(update={"use_gradient_checkpointing": "unsloth"})
        if arguments.get("gradient_checkpointing") is not False:
            changes.append((("lora.use_gradient_checkpointing=unsloth",), recipe.model_copy(update={"lora": kept})))
    four_bits = {"load_in_4bit": True, "load_in_8bit": False, "load_in_16bit": False}
    if recipe.lora is not None and not recipe.model.load_in_4bit:
        said = "model.load_in_4bit=true"
        for way in ("load_in_8bit", "load_in_16bit"):
            said += f" model.{way}=false" if getattr(recipe.model, way) else ""
        smaller = [(( *before, said), one.model_copy(update={"model": recipe.model.model_copy(update=four_bits)}))
                   for before, one in changes]  # fmt: skip
        changes += smaller
    return changes


def _last_changes(recipe: Recipe) -> list[tuple[str, Recipe]]:
    """What changes more than the memory: a LoRA on 4 bits in place of all weights, and a smaller update."""
    from fastft.recipe.schema import LoraSection

    if recipe.lora is None:
        loaded = {"load_in_4bit": True, "load_in_8bit": False, "load_in_16bit": False, "full_finetuning": False}
        lora = LoraSection(r=16, use_gradient_checkpointing="unsloth")
        changed = recipe.model_copy(update={"model": recipe.model.model_copy(update=loaded), "lora": lora})
        return [("model.full_finetuning=false model.load_in_4bit=true lora.r=16", changed)]
    ranks = [rank for rank in (8, 4, 2, 1) if rank < recipe.lora.r]
    return [
        (f"lora.r={rank}", recipe.model_copy(update={"lora": recipe.lora.model_copy(update={"r": rank})}))
        for rank in ranks
    ]


def _halvings(batch: int) -> list[int]:
    sizes = [batch]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    return sizes


def _spelled(changes: tuple[str, ...], batch: int, arguments: Mapping[str, Any]) -> str:
    """Overrides for the command line; accumulation makes up for a smaller micro-batch."""
    before = int(arguments["per_device_train_batch_size"])
    said = list(changes)
    if batch != before:
        accumulated = max(1, before * int(arguments["gradient_accumulation_steps"]) // batch)
        said += [f"training.per_device_train_batch_size={batch}", f"training.gradient_accumulation_steps={accumulated}"]
    return " ".join(said)


def _shorter(
    shape: Shape, recipe: Recipe, arguments: Mapping[str, Any], work: Work, card: Card
) -> list[tuple[str, int]]:
    """The longest text that fits with everything else as small as it goes."""
    from fastft.planning.memory import largest_in_flight
    from fastft.planning.plan import memory_of

    changes, smallest = _changes(recipe, arguments)[-1]
    one = {**arguments, "per_device_train_batch_size": 1}

    def memory(length: int) -> Any:
        return memory_of(shape, smallest, one, work, card, in_flight=length * work.width, longest=max(1, length))

    fitting = _rounded(largest_in_flight(memory, card.memory))
    if fitting < _SHORTEST or fitting >= work.longest:
        return []
    said = f"{_spelled(changes, 1, arguments)} training.max_length={fitting}".strip()
    return [(said, memory(fitting).total)]


def _rounded(length: int) -> int:
    """Down to a multiple of 64."""
    return length // 64 * 64 if length > 64 else length
