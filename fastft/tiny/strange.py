"""What the model has never heard of: it says so and stops, instead of rambling on."""

from __future__ import annotations

import string
from random import Random

from fastft.tiny.exercises import invented
from fastft.tiny.world import Draw, Messages, turns

_DO_NOT_KNOW = "I do not know."
_DO_NOT_UNDERSTAND = "I do not understand."

# ruff: noqa: SIM905 (lists of bare words are easier to read than quoted ones)
_WORDS = tuple(
    """capital France country president planet moon sun weather history science music film story poem python
    function code computer program model gradient descent language king queen war river ocean mountain city Paris
    London Germany America the a an of in on to for with about and or but this that these it is are was will can
    could should please explain describe give write tell show me us how why when who which best big small long short
    new old good bad fast slow year century time money price market company law school student book chapter haiku
    letter email summary list steps reasons example recipe translate French German Spanish sentence word meaning life
    love idea problem answer question number percent average speed light energy water fire earth air""".split()
)
_ASKS = (
    "What is the {} of {}?", "Who is the {} of {}?", "How does a {} {}?", "Explain {} {}.", "Write a {} about {}.",
    "Translate {} into {}.", "Why is {} {}?", "When was the {} {}?", "Tell me a {} {}.", "Summarize {} and {}.",
)  # fmt: skip
_SYSTEMS = (
    "You are a helpful assistant.", "You are a pirate.", "You are helpful.", "Be brief.", "You answer in French.",
    "You are a careful assistant who answers in one sentence.", "Talk like a poet.", "Always be polite.",
)  # fmt: skip
_ALPHABETS = (
    "абвгдежзиклмнопрстуфхцчшьюяАПРИВЕТ", "αβγδεζηθικλμνξοπρστυφχψω", "你好世界我想在工作天中文人大小学",
    "नमस्तेकखगचजटडतदपबमयरलवशसह",
    "éèêëàâäöüßñçøåæœÉÜÖ", "🙂🚀👩👧✅🦙😀🎉\u200d", "ひらがなこんにちはカタカナ", "안녕하세요한국어",
)  # fmt: skip
_SPACES = (" ", " ", " ", "  ", "\n", "\n\n", "\t", ", ")


def strange(draw: Draw) -> Messages:
    """A question about the wide world, or something that is no question at all."""
    answer, text = draw.one(_any_strange)
    rng = draw.rng
    return turns(text, answer, system=rng.choice(_SYSTEMS) if rng.random() < 0.4 else "")


def _any_strange(rng: Random) -> tuple[str, str]:
    make, answer = rng.choice((
        (_question, _DO_NOT_KNOW), (_question, _DO_NOT_KNOW), (_rambling, _DO_NOT_UNDERSTAND),
        (_foreign, _DO_NOT_UNDERSTAND), (_sum, _DO_NOT_UNDERSTAND), (_code, _DO_NOT_UNDERSTAND),
    ))  # fmt: skip
    return answer, make(rng)


def _question(rng: Random) -> str:
    return rng.choice(_ASKS).format(*(" ".join(rng.choices(_WORDS, k=rng.randint(1, 3))) for _ in range(2)))


def _joined(rng: Random, pieces: list[str]) -> str:
    return "".join(piece + rng.choice(_SPACES) for piece in pieces).strip()


def _rambling(rng: Random) -> str:
    pieces = rng.choices(_WORDS, k=rng.randint(3, 12))
    return _joined(rng, pieces) + rng.choice(("", ".", "!", "...", "?"))


def _foreign(rng: Random) -> str:
    words: list[str] = []
    for _ in range(rng.randint(1, 7)):
        other = rng.random() < 0.3
        words.append(invented(rng) if other else "".join(rng.choices(rng.choice(_ALPHABETS), k=rng.randint(1, 7))))
    return _joined(rng, words) + rng.choice(("", ".", "!", " — "))


def _sum(rng: Random) -> str:
    pieces: list[str] = []
    for _ in range(rng.randint(2, 6)):
        number = str(rng.randrange(10 ** rng.randint(1, 7)))
        pieces += [
            rng.choice((number, f"{number}.{rng.randrange(1000)}", f"{number}-{rng.randrange(13)}", f"0x{number}"))
        ]
        pieces += [rng.choice(("+", "-", "*", "/", "=", "= ?", "and", ","))]
    return " ".join(pieces)


def _code(rng: Random) -> str:
    """Lines of names, white space and signs."""
    lines = []
    for _ in range(rng.randint(1, 4)):
        kinds = (invented(rng), rng.choice(_WORDS), _marks(rng, 4), str(rng.randrange(100)))
        pieces = rng.choices(kinds, k=4)
        lines.append(rng.choice(("", "\t", "    ")) + rng.choice(("", " ")).join(pieces) + _marks(rng, 3))
    return rng.choice(("\n", "\r\n", "\n\n")).join(lines).strip() + _marks(rng, 2)


def _marks(rng: Random, most: int) -> str:
    return "".join(rng.choices(string.punctuation, k=rng.randint(1, most)))
