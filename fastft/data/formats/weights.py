"""Whether a turn is learned from, in the spellings data sets use: `weight`, `train`, `loss` or `trainable`."""

from __future__ import annotations

from typing import Any

from fastft.data.conversation import Message
from fastft.data.faults import RowFaultError, RowRefusedError
from fastft.data.formats.fields import described

WEIGHT_KEYS = ("weight", "train", "loss", "trainable")

Stated = tuple[str, bool | float]


def read_weight(turn: dict[str, Any], where: str) -> tuple[float, Stated | None]:
    """The turn's weight, 1 where it names none, and how it is spelled there.

    Raises RowFaultError for what is no weight, or two that differ; RowRefusedError for one that is not 0 or 1.
    """
    stated = [(key, turn[key]) for key in WEIGHT_KEYS if turn.get(key) is not None]
    if not stated:
        return 1.0, None
    for key, value in stated:
        if not isinstance(value, bool | int | float) or not value >= 0:  # NaN is not >= 0 either
            raise RowFaultError(f"{key} of {where} is {described(value)}", "true, false, 0 or 1")
        if value not in (0, 1):
            raise RowRefusedError("a message has a fractional weight, which the loss can't take", f"{where}: {value}")
    if len({float(value) for _, value in stated}) > 1:
        found = " and ".join(f"{key} {described(value)}" for key, value in stated)
        raise RowFaultError(f"{where} has {found}", "one of them", "Say once whether the turn is learned.")
    return float(stated[0][1]), stated[0]


def weight_field(message: Message) -> dict[str, bool | float]:
    """The weight as the row spelled it; nothing where it said nothing and the turn is learned."""
    if message.weight_as is not None:
        return dict([message.weight_as])
    return {} if message.weight == 1 else {"weight": int(message.weight)}
