"""A small world and the conversations about it, drawn from a seed.

Every question has exactly one right answer, so a model can be scored by exact match. What is asked (a fact with
its wording, the record a note tells, the words to copy) is a key; a hash of the key decides its split once and
for all, so what is held out is never trained on, whatever the seed of the draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from fastft.tiny.words import ANIMALS, COLOURS, FOODS, ITEMS, JOBS, MADE, NUMBERS, PEOPLE, RESIDENTS, TOWNS, plural

T = TypeVar("T")
Messages = list[dict[str, str]]

# Percent of all keys. The last split takes the rest.
SHARES = (("heldout", 5), ("quickstart_heldout", 5), ("quickstart", 10), ("train", 80))


def split_of(key: object) -> str:
    """The split that `key` belongs to, by a hash of its repr: the same in every process and on every machine."""
    percent = int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") % 100
    for name, share in SHARES:
        if percent < share:
            return name
        percent -= share
    raise AssertionError("SHARES add up to 100")


@dataclass(frozen=True, slots=True)
class Record:
    """Who from where has how many things of what colour: what a note tells."""

    name: str
    town: str
    count: int
    colour: str
    item: str

    @property
    def things(self) -> str:
        return self.item if self.count == 1 else plural(self.item)


@dataclass(frozen=True, slots=True)
class World:
    """The facts: attribute -> subject -> value."""

    facts: dict[str, dict[str, str]]

    @classmethod
    def from_seed(cls, seed: int) -> World:
        rng = Random(f"world {seed}")
        pools: dict[str, Sequence[str]] = {"town": TOWNS, "pet": ANIMALS, "job": JOBS, "colour": COLOURS, "food": FOODS}
        facts = {name: {who: rng.choice(pool) for who in RESIDENTS} for name, pool in pools.items()}
        made: dict[str, str] = {town: rng.choice(MADE) for town in TOWNS}
        mayors: dict[str, str] = dict(zip(TOWNS, rng.sample(RESIDENTS, len(TOWNS)), strict=True))
        return cls({**facts, "made": made, "mayor": mayors})


@dataclass(slots=True)
class Draw:
    """A source of random choices whose keys all lie in one split."""

    world: World
    split: str
    rng: Random = field(default_factory=Random)

    def one(self, make: Callable[[Random], T]) -> T:
        """Draws from `make` until the value, taken as key, lies in this split. `make` must name its skill in it."""
        while split_of(value := make(self.rng)) != self.split:
            pass
        return value

    def record(self, without: tuple[Record, ...] = ()) -> Record:
        """A record that shares no name, town, item or colour with those in `without`."""
        taken = {word for other in without for word in (other.name, other.town, other.item, other.colour)}
        while True:
            record = self.one(_any_record)
            if not taken & {record.name, record.town, record.item, record.colour}:
                return record

    def records(self, count: int) -> tuple[Record, ...]:
        found: tuple[Record, ...] = ()
        for _ in range(count):
            found = (*found, self.record(without=found))
        return found


def _any_record(rng: Random) -> Record:
    count = rng.randint(1, 12)
    return Record(rng.choice(PEOPLE), rng.choice(TOWNS), count, rng.choice(COLOURS), rng.choice(ITEMS))


NOTE_TEMPLATES = (
    "{name} from {town} has {things}.",
    "{name} of {town} owns {things}.",
    "In {town}, {name} keeps {things}.",
    "{Things} {belong} to {name} from {town}.",
    "{name} lives in {town} and has {things}.",
    "{name}, who is from {town}, bought {things}.",
    "At the market in {town}, {name} found {things}.",
    "There are people in {town}, and one of them is {name} with {things}.",
    "We met {name} from {town}, who carries {things}.",
    "{name} went home to {town} with {things}.",
    "{Things} {stand} in {town}, and they are all for {name}.",
    "The owner of {things} is {name}, who lives in {town}.",
    "{town} is the home of {name}, who has {things}.",
    "Somebody called {name} left {things} in {town}.",
)


def note(record: Record, rng: Random) -> tuple[str, str]:
    """One sentence that tells the record, and the count as it is written there (a word or digits)."""
    count = str(record.count) if rng.random() < 0.3 else NUMBERS[record.count]
    things = f"{count} {record.colour} {record.things}"
    one = record.count == 1
    sentence = rng.choice(NOTE_TEMPLATES).format(
        name=record.name, town=record.town, things=things, Things=things[0].upper() + things[1:],
        belong="belongs" if one else "belong", stand="stands" if one else "stand",
    )  # fmt: skip
    return sentence, count


def turns(*contents: str, system: str = "") -> Messages:
    """Messages from contents that alternate user, assistant, user, …"""
    messages = [{"role": "system", "content": system}] if system else []
    return messages + [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
