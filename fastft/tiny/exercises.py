"""Small exercises with words and numbers: counting, copying, places in a list, brackets, plurals, spelling."""

from __future__ import annotations

import string
from random import Random

from fastft.tiny.words import ANIMALS, COLOURS, FOODS, ITEMS, JOBS, MADE, NUMBERS, PEOPLE, TERMS, TOWNS, plural
from fastft.tiny.world import Draw, Messages, turns

_LETTERS = "bdfgklmnprstvz"
_VOWELS = "aeiou"
# Copied at random, so that no character a fine-tune may bring has a token that was never trained.
_SIGNS = string.ascii_letters + string.digits + 3 * string.punctuation + "äöüßéèñçøå€–’“”°🙂🚀中文"


def numbers(draw: Draw) -> Messages:
    """Counting up and down, neighbours, and numbers as words and digits."""
    question, answer = draw.one(_any_count if draw.rng.random() < 0.5 else _any_number)
    return turns(question, answer)


def _any_count(rng: Random) -> tuple[str, str]:
    first, length = rng.randint(0, 30), rng.randint(2, 8)
    up = [str(first + i) for i in range(length)]
    if rng.random() < 0.6:
        return f"Count from {up[0]} to {up[-1]}.", " ".join(up)
    return f"Count down from {up[-1]} to {up[0]}.", " ".join(reversed(up))


def _any_number(rng: Random) -> tuple[str, str]:
    n = rng.randint(1, 19)
    say = rng.choice(("", "Please: ", "Now: ", "Quick: "))
    return rng.choice((
        (f"{say}What comes after {n}?", str(n + 1)),
        (f"{say}What comes before {n}?", str(n - 1)),
        (f"{say}Write {n} as a word.", NUMBERS[n]),
        (f"{say}Write {NUMBERS[n]} in digits.", str(n)),
    ))  # fmt: skip


_POOLS = (ITEMS, COLOURS, ANIMALS, FOODS, JOBS, PEOPLE, TOWNS)
_ANY = (*ITEMS, *PEOPLE, *TOWNS, *COLOURS, *ANIMALS, *FOODS, *JOBS, *MADE, *TERMS, *map(plural, ITEMS))


def _words(rng: Random, low: int, high: int) -> list[str]:
    pool = _ANY if rng.random() < 0.5 else rng.choice(_POOLS)
    return rng.sample(pool, rng.randint(low, min(high, len(pool))))


def invented(rng: Random) -> str:
    """A word nobody knows, to be copied piece by piece."""
    word = "".join(rng.choice(_LETTERS) + rng.choice(_VOWELS) for _ in range(rng.randint(2, 4)))
    return word.capitalize() if rng.random() < 0.5 else word


def copying(draw: Draw) -> Messages:
    text = draw.one(_any_text)
    return turns(draw.rng.choice(("Say: {t}", "Repeat: {t}", "Copy this: {t}", "Please say: {t}")).format(t=text), text)


def _any_text(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.7:
        return " ".join(_words(rng, 2, 20))
    if kind < 0.85:
        return " ".join(invented(rng) for _ in range(rng.randint(1, 4)))
    return " ".join("".join(rng.choices(_SIGNS, k=rng.randint(1, 5))) for _ in range(rng.randint(1, 4)))


def places(draw: Draw) -> Messages:
    """First, last, next: one word out of a list."""
    rng = draw.rng
    words = draw.one(lambda r: ("place", *_words(r, 3, 5)))[1:]
    i = rng.randrange(len(words) - 1)
    question, answer = rng.choice((
        ("Which word is first?", words[0]), ("Which word is last?", words[-1]), ("Which is second?", words[1]),
        (f"What comes after {words[i]}?", words[i + 1]), (f"What comes before {words[i + 1]}?", words[i]),
        ("How many words?", str(len(words))),
    ))  # fmt: skip
    listing = ", ".join(words)
    return turns(
        rng.choice((f"{listing}. {question}", f"Words: {listing}. {question}", f"{question} {listing}.")), answer
    )


def brackets(draw: Draw) -> Messages:
    """Lists, tallies and pairs with brackets, braces and quotes."""
    rng = draw.rng
    words = draw.one(lambda r: ("bracket", *_words(r, 1, 6)))[1:]
    kind = rng.choice(("list", "tally", "pairs"))
    if kind == "tally":
        counts = [rng.randint(1, 12) for _ in words]
        text = ", ".join(f"{word} {rng.choice((NUMBERS[n], n))}" for word, n in zip(words, counts, strict=True))
        answer = "{" + ", ".join(f'"{word}": {n}' for word, n in zip(words, counts, strict=True)) + "}"
        return turns(rng.choice(("Tally: ", "Make a tally: ")) + text, answer)
    if kind == "pairs" and len(words) > 1:
        pairs = list(zip(words[::2], words[1::2], strict=False))
        text = ", ".join(f"{left} {right}" for left, right in pairs)
        answer = "{" + ", ".join(f'"{left}": "{right}"' for left, right in pairs) + "}"
        return turns(rng.choice(("Pairs: ", "Make pairs: ")) + text, answer)
    answer = "[" + ", ".join(f'"{word}"' for word in words) + "]"
    return turns(rng.choice(("List: ", "Make a list: ", "Put this in a list: ")) + ", ".join(words), answer)


def grammar(draw: Draw) -> Messages:
    noun, kind, wording = draw.one(lambda r: (r.choice((*ITEMS, *ANIMALS)), r.choice(("one", "many")), r.randrange(4)))
    many = plural(noun)
    if kind == "many":
        asks = (f"What is the plural of {noun}?", f"One {noun}, two what?", f"Say more than one {noun}.",
                f"Write {noun} as plural.")  # fmt: skip
        return turns(asks[wording], many)
    asks = (f"What is the singular of {many}?", f"Two {many}, one what?", f"Say one of the {many}.",
            f"Write {many} as singular.")  # fmt: skip
    return turns(asks[wording], noun)


def spelling(draw: Draw) -> Messages:
    word, wording = draw.one(lambda r: (r.choice((*ITEMS, *COLOURS, *ANIMALS, *NUMBERS[1:13])), r.randrange(4)))
    asks = (f"Spell {word}.", f"How do you spell {word}?", f"Spell the word {word}.", f"Which letters are in {word}?")
    return turns(asks[wording], "-".join(word))
