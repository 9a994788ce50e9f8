"""The skills of the tiny model, each a function that draws a conversation, and their shares of its text."""

from __future__ import annotations

from collections.abc import Callable

from fastft.tiny.exercises import brackets, copying, grammar, numbers, places, spelling
from fastft.tiny.manners import manners, persona
from fastft.tiny.questions import chat, facts, notes, unknown
from fastft.tiny.world import Draw, Messages

# skill -> (function, share of the conversations)
SKILLS: dict[str, tuple[Callable[[Draw], Messages], int]] = {
    "facts": (facts, 8),
    "notes": (notes, 18),
    "chat": (chat, 28),
    "manners": (manners, 2),
    "persona": (persona, 3),
    "numbers": (numbers, 5),
    "copying": (copying, 6),
    "places": (places, 8),
    "brackets": (brackets, 10),
    "grammar": (grammar, 3),
    "spelling": (spelling, 4),
    "unknown": (unknown, 5),
}


def conversation(draw: Draw) -> tuple[str, Messages]:
    """A conversation of a skill drawn by share, and the skill's name."""
    skill = draw.rng.choices(tuple(SKILLS), [share for _, share in SKILLS.values()])[0]
    return skill, SKILLS[skill][0](draw)
