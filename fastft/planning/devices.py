"""A recipe's plan on several devices, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastft.errors import RecipeError
from fastft.planning.advice import remedies
from fastft.planning.cards import CARDS, Card, card_of, device_of, find_card
from fastft.planning.memory import bytes_a_weight
from fastft.planning.plan import Plan
from fastft.planning.shape import Shape, read_shape

if TYPE_CHECKING:
    from fastft.checking import CheckReport


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan on one card. `remedies` are overrides that make it fit, each with the bytes it then takes at the peak.

    With `impossible` no recipe of this model fits, because its weights alone are more than the card has.
    """

    card: Card
    arguments: Mapping[str, Any]
    plan: Plan
    remedies: tuple[tuple[str, int], ...] = ()
    impossible: bool = False
    lost: tuple[str, ...] = ()  # of the fast path, on a device that isn't this machine's

    @property
    def fits(self) -> bool | None:
        """None where the model's sizes can't be read."""
        return self.plan.memory <= self.card.memory if self.plan.parts else None

    def as_dict(self) -> dict[str, Any]:
        return {
            "device": self.card.name,
            "memory": self.card.memory,
            "fits": self.fits,
            "impossible": self.impossible,
            "lost": list(self.lost),
            "remedies": [{"overrides": overrides, "memory": memory} for overrides, memory in self.remedies],
            "arguments": dict(self.arguments),
            "plan": self.plan.as_dict(),
        }


def cards_named(names: Sequence[str]) -> list[Card]:
    """The cards of these names. Raises RecipeError for one that is unknown, with the known ones."""
    found = []
    for name in names:
        card = find_card(name)
        if card is None:
            from fastft.recipe.suggest import nearest

            close = nearest(name, [*CARDS, "cpu"])
            raise RecipeError(
                f"there is no device {name!r} among those that are known: {', '.join(CARDS)}, cpu",
                hint=(f"Did you mean {close}? " if close else "")
                + "Of any other card give the memory in GiB: --device 24",
            )
        found.append(card)
    return found


def plan_on_devices(checked: CheckReport, cards: Sequence[Card] = ()) -> list[Planned]:
    """The plan of a sound recipe on each card, without any on this machine's device."""
    from fastft.checking import planned_on
    from fastft.fastpath.foreseen import foreseen
    from fastft.model_files import read_text_config, resolve_model

    recipe = checked.recipe
    folder = resolve_model(recipe.model.model_name, recipe.model.revision, weights=False)
    shape, config = read_shape(folder), read_text_config(folder)
    if not cards:
        return [_planned(checked, shape, card_of(checked.device), checked.arguments, checked.plan)]
    found = []
    for card in cards:
        _, arguments, plan = planned_on(checked, device_of(card, checked.device))
        lost = foreseen(recipe, config, device_of(card, checked.device), arguments)
        found.append(replace(_planned(checked, shape, card, arguments, plan), lost=lost))
    return found


def _planned(
    checked: CheckReport, shape: Shape | None, card: Card, arguments: Mapping[str, Any], plan: Plan
) -> Planned:
    if shape is None or plan.work is None or plan.memory <= card.memory:
        return Planned(card, arguments, plan)
    found = remedies(shape, checked.recipe, arguments, plan.work, card)
    return Planned(card, arguments, plan, tuple(found), not found and _weights_too_large(shape, checked, card))


def _weights_too_large(shape: Shape, checked: CheckReport, card: Card) -> bool:
    """Whether the weights alone, in 4 bits where they can be, are more than the card has."""
    loaded = {"load_in_4bit": True, "load_in_8bit": False, "load_in_16bit": False, "full_finetuning": False}
    model = checked.recipe.model.model_copy(update=loaded)
    quantised = shape.linear * bytes_a_weight(shape, model)
    return quantised + 2 * (shape.parameters - shape.linear) > card.memory
