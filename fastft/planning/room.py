"""What a device has room for, from the plan of memory: so that defaults fill it and never go beyond."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastft.planning.memory import Checkpointing, largest_in_flight
from fastft.planning.plan import memory_of
from fastft.trainers.micro_batch import Room

if TYPE_CHECKING:
    from fastft.planning.cards import Card
    from fastft.planning.shape import Shape
    from fastft.planning.work import Work
    from fastft.recipe.schema import Recipe

# Shares of a device's memory that are planned with: a card may serve a screen, the CPU's memory serves all else, too.
# Where all activations are kept, most of the memory is a formula that no card has confirmed yet: a margin more.
_SHARE_OF_CARD = 0.92
_SHARE_WITH_ACTIVATIONS = 0.75
_SHARE_OF_HOST = 0.75
_LARGE_CARD = 40 << 30
# Tokens from which a larger micro-batch gains nothing worth its memory. On a card, what dequantising costs each
# micro-batch (docs/plan.md) is below 4 % at 8k and 2 % at 16k for 8B; on the CPU activations outgrow the caches.
_WORTH = {"large": 16384, "small": 8192, "cpu": 4096}


def room_of(shape: Shape, recipe: Recipe, arguments: Mapping[str, Any], work: Work, card: Card) -> Room:
    """The room for micro-batches of `recipe` on `card`. `arguments` may lack what is chosen by it."""
    optim = "adamw_torch_fused" if card.is_cpu else "adamw_8bit"
    known = {"optim": optim, "gradient_accumulation_steps": 1, "per_device_train_batch_size": 1, **arguments}

    def fits(way: Checkpointing) -> int:
        share = _SHARE_OF_HOST if card.is_cpu else _SHARE_OF_CARD if way else _SHARE_WITH_ACTIVATIONS
        said = {**known, "gradient_checkpointing": bool(way)}
        return largest_in_flight(
            lambda tokens: memory_of(shape, recipe, said, work, card, in_flight=tokens), int(share * card.memory)
        )

    worth = _WORTH["cpu" if card.is_cpu else "large" if card.memory >= _LARGE_CARD else "small"]
    return Room(fits, worth, _ways(recipe, arguments))


def _ways(recipe: Recipe, arguments: Mapping[str, Any]) -> tuple[Checkpointing, ...]:
    """The ways to keep activations that the recipe leaves open, fastest first."""
    asked = recipe.lora.use_gradient_checkpointing if recipe.lora is not None else "auto"
    if asked != "auto":
        return (asked,)
    said = arguments.get("gradient_checkpointing")
    if said is not None:
        return ("unsloth" if said else False,)
    return (False, "unsloth")
