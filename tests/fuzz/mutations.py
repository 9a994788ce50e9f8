"""Ways of spoiling bytes, texts and nested values. Each takes a Random and gives something new."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from random import Random
from typing import Any

HUGE = 300_000  # characters of a huge text
DEEP = 30_000  # levels of a deep nesting, which no recursive reader survives by luck
_WORDS = (
    b"\x00", b"\xff" * 8, b"\xff\xff\xff\x7f", b"\x80" * 4, b"\xef\xbb\xbf", b"\xed\xa0\x80", b"{", b"}", b"[", b"]",
    b'"', b"'", b":", b",", b"\\", b"\\u0000", b"\\ud800", b"\n", b"\r", b"\t", b"-", b"&a", b"*a", b"!!python/none",
    b"<<: *a", b"NaN", b"Infinity", b"1e999", b"-1", b"99999999999999999999999", b"null", b"true", b"\xe2\x80\xa8",
    b"\x1b[2J", b"{{", b"{%", b"%", b"@", b"|", b">", b"---", b"...", b"\x7f", b"\xc2\x9b",
)  # fmt: skip


def spoil_bytes(data: bytes, random: Random, most: int = 6) -> bytes:
    """A few flips, cuts, repetitions and insertions; now and then nothing but a prefix, or nothing."""
    spoiled = bytearray(data)
    for _ in range(random.randint(1, most)):
        _BYTE_WAYS[random.randrange(len(_BYTE_WAYS))](spoiled, random)
    return bytes(spoiled)


def _at(data: bytearray, random: Random) -> int:
    """A place, more often near the start or the end, where headers and footers lie."""
    reach = min(len(data), 64)
    near = (random.randint(0, reach), len(data) - random.randint(0, reach), random.randint(0, len(data)))
    return random.choice(near)


def _flip(data: bytearray, random: Random) -> None:
    if data:
        data[min(_at(data, random), len(data) - 1)] ^= 1 << random.randrange(8)


def _set(data: bytearray, random: Random) -> None:
    if data:
        data[min(_at(data, random), len(data) - 1)] = random.randrange(256)


def _cut_end(data: bytearray, random: Random) -> None:
    del data[_at(data, random) :]


def _cut(data: bytearray, random: Random) -> None:
    at = _at(data, random)
    del data[at : at + random.choice((1, 2, 8, 100, 5000))]


def _insert(data: bytearray, random: Random) -> None:
    at = _at(data, random)
    data[at:at] = random.choice(_WORDS) * random.choice((1, 1, 1, 2, 50))


def _overwrite(data: bytearray, random: Random) -> None:
    at, word = _at(data, random), random.choice(_WORDS)
    data[at : at + len(word)] = word


def _repeat(data: bytearray, random: Random) -> None:
    at = _at(data, random)
    piece = data[at : at + random.choice((1, 4, 64, 1000))]
    data[at:at] = piece * random.choice((1, 3, 200))


def _swap(data: bytearray, random: Random) -> None:
    first, second = sorted((_at(data, random), _at(data, random)))
    length = random.choice((1, 4, 32))
    data[first : first + length], data[second : second + length] = (
        data[second : second + length],
        data[first : first + length],
    )


def _zeros(data: bytearray, random: Random) -> None:
    at = _at(data, random)
    length = min(random.choice((1, 8, 512)), len(data) - at)
    data[at : at + length] = bytes(length)


_BYTE_WAYS = (_flip, _flip, _set, _cut_end, _cut, _insert, _insert, _overwrite, _repeat, _swap, _zeros)


class Deep:
    """Stands for a nesting deeper than json.dumps writes; `dump_json` writes it."""

    def __init__(self, opened: str, closed: str) -> None:
        self.text = opened * DEEP + closed * DEEP


def hostile(random: Random) -> Any:
    """A value that a reader did not think of."""
    return random.choice(
        (
            None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, -0.0, 1e308, math.nan, math.inf,
            -math.inf, "", " ", "x", "x" * HUGE, "\ud800", "\0", "a\0b", "\x1b]0;owned\x07", "\x9b31m", "\u202egpj",
            "../../../../etc/passwd", "/etc/passwd", "/dev/zero", "~", "~nobody/x", "{{ 7*7 }}", "{% for %}", "NaN",
            "-1", "1e5", "true", "null", "a\nb", "\u2028", "é" * 2000, "😀", [], {}, [[]], [{}], [None], {"": ""},
            {"a": None}, ["a", 1, None], {"a": {"b": {"c": [1]}}}, [0] * 5000, {str(n): n for n in range(3000)},
            ["x" * 1000] * 50, Deep("[", "]"), Deep('{"a":', "}"), {"content": 1}, {"__class__": "x"}, b"\xff\x00",
        )
    )  # fmt: skip


def spoil_value(value: Any, random: Random, most: int = 3) -> Any:
    """A copy of nested dicts and lists with some places changed."""
    spoiled: dict[str, Any] = {"root": copy.deepcopy(value)}
    for _ in range(random.randint(1, most)):
        holder, key = random.choice(list(_places(spoiled)))
        _spoil_place(holder, key, random)
    return spoiled["root"]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items)[:200]:
        yield value, key
        if isinstance(item, dict | list) and item:
            yield from _places(item)


def _spoil_place(holder: Any, key: Any, random: Random) -> None:
    way = random.randrange(6)
    if way == 0 and key != "root":
        del holder[key]
    elif way == 1 and isinstance(holder, dict) and key != "root":
        holder[random.choice((f"{key}s", f" {key}", str(key).upper(), "", "\ud800", "x" * 5000))] = holder.pop(key)
    elif way == 2:
        holder[key] = random.choice(([holder[key]], {key: holder[key]}, str(holder[key]), json_text(holder[key])))
    elif way == 3 and isinstance(holder, list):
        holder[int(key) : int(key) + 1] = [holder[int(key)]] * random.choice((2, 300))
    elif way == 4 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = random.choice((-holder[key], holder[key] + 1, holder[key] * 10**12, str(holder[key]), 0, -1, 0.5))
    else:
        holder[key] = hostile(random)


def json_text(value: Any) -> str:
    """`value` as JSON, with what json has no form for written as it can be."""
    deep: dict[str, str] = {}

    def other(item: Any) -> Any:
        if isinstance(item, Deep):
            deep[mark := f"deep-{len(deep)}-{id(item)}"] = item.text
            return mark
        return repr(item)

    text = json.dumps(value, default=other)
    for mark, nested in deep.items():
        text = text.replace(f'"{mark}"', nested)
    return text
