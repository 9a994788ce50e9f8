"""The built-in measures of an answer, each between 0 and 1. `answers` are texts, `ids` the tokens they were made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

# A sign counts only where no number, word or bracket stands before it: "10-3" ends with 3, "= -3" with -3.
_NUMBER = re.compile(
    r"(?:(?<![\w.)\]])[-−+])?[$€£]?(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?"
    r"|(?:(?<![\w.)\]])[-−+])?(?<!\d)\.\d+"
)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")


def regex(answers: Sequence[str], *, pattern: str) -> list[float]:
    """1 where the pattern is found anywhere in the answer."""
    compiled = re.compile(pattern)
    return [float(compiled.search(answer) is not None) for answer in answers]


def exact(answers: Sequence[str], expected: Sequence[Any]) -> list[float]:
    """1 where the answer is the expected text, white space around it aside."""
    return [float(a.strip() == str(e).strip()) for a, e in zip(answers, expected, strict=True)]


def numeric(answers: Sequence[str], expected: Sequence[Any]) -> list[float]:
    """1 where the answer's number equals the expected one: 1,234.50 is 1234.5."""
    found = [(number_of(a), number_of(e)) for a, e in zip(answers, expected, strict=True)]
    return [float(a is not None and a == e) for a, e in found]


def length(answers: Sequence[str], ids: Sequence[Sequence[int]], *, most: int, unit: str = "tokens") -> list[float]:
    """1 up to `most`, then falling straight to 0 at twice as much. Tokens are counted with the end of turn."""
    sizes = [len(one) for one in (ids if unit == "tokens" else answers)]
    return [min(1.0, max(0.0, 2.0 - size / most)) for size in sizes]


def number_of(said: Any) -> Decimal | None:
    """The number a text comes to: the last one in its last \\boxed{}, else after its last ####, else of all of it."""
    if isinstance(said, bool) or said is None:
        return None
    text = str(said)
    if boxed := _BOXED.findall(text):
        text = boxed[-1]
    elif "####" in text:
        text = text.rpartition("####")[2]
    numbers = _NUMBER.findall(text.replace("{,}", ",").replace("\\$", "$"))
    if not numbers:
        return None
    return Decimal(re.sub("[,$€£]", "", numbers[-1]).replace("−", "-"))
