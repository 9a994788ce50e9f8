"""How large a value of a chat template is, and how large an operation would make it: told before it is computed."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Set, ValuesView
from typing import Any

from jinja2.exceptions import TemplateRuntimeError
from jinja2.utils import Namespace

MOST_TEXT = 64 << 20  # characters of one text
MOST_PARTS = 1_000_000  # values in one value, those within them counted too
_MOST_DEPTH = 500  # of values in values; hashing a deeper one takes all of the stack
_MOST_BITS = 4096  # of a whole number
_MOST_WIDTH = 100_000  # that a text is padded or indented to, and of a number of items made at once
_A_VALUE = 64  # bytes that a value takes beside its text
_LONG_NUMBER = re.compile(r"\d{5}")  # as the width of a format
_WIDTH_FROM_ARGUMENT = re.compile(r"%[^a-zA-Z%]*\*|:[^{}]*\{")
_MOST_DATE = 1000  # characters of a date's format
_A_FIELD = 10_000  # characters that a field of a format can be wide, of its own


class TemplateLimitError(TemplateRuntimeError):
    """A chat template wants more than one rendering may take."""


def bytes_of(value: Any) -> int:
    """About what a text or a list takes, without what is in the list. Raises TemplateLimitError for too large a one."""
    if isinstance(value, str):
        if len(value) > MOST_TEXT:
            raise TemplateLimitError(f"it makes a text of more than {MOST_TEXT:,} characters")
        return len(value)
    if isinstance(value, (list, tuple, dict, Set, Namespace)):
        values = len(_within(value))
        if values > MOST_PARTS:
            raise TemplateLimitError(f"it makes a list of more than {MOST_PARTS:,} values")
        return _A_VALUE * values
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise TemplateLimitError(f"it makes a number of more than {_MOST_BITS:,} bits")
    return 0


def written_out(value: Any) -> tuple[int, int]:
    """(values, characters) of all that is in `value`, counted as often as writing or comparing it would meet it.

    Raises TemplateLimitError beyond what a template may have; a list in itself has no end.
    """
    parts, characters, depth, level = 0, 0, 0, [value]
    while level:
        parts, depth, inner = parts + len(level), depth + 1, []
        for one in level:
            if isinstance(one, str):
                characters += len(one)
            elif within := _within(one):
                inner += within
                inner += one.values() if isinstance(one, Mapping) else ()
            if parts + len(inner) > MOST_PARTS or characters > MOST_TEXT:
                raise TemplateLimitError(
                    f"it holds more than {MOST_PARTS:,} values, or {MOST_TEXT:,} characters, in one"
                )
        if depth > _MOST_DEPTH:
            raise TemplateLimitError(f"it holds lists in lists, more than {_MOST_DEPTH} deep")
        level = inner
    return parts, characters


def _within(value: Any) -> Collection[Any]:
    """What is in a value that holds others: of a mapping its keys."""
    if isinstance(value, (list, tuple, Mapping, Set, ValuesView)):
        return value
    return value._Namespace__attrs.values() if isinstance(value, Namespace) else ()  # pyright: ignore[reportAttributeAccessIssue]


def _require_text(characters: int) -> None:
    if characters > MOST_TEXT:
        raise TemplateLimitError(f"it would make a text of {characters:,} characters")


def _require_width(*given: Any) -> None:
    for value in given:
        if isinstance(value, (int, float)) and abs(value) > _MOST_WIDTH:
            raise TemplateLimitError(f"it asks for a width of {value:,}")


def before_operator(operator: str, left: Any, right: Any) -> None:
    """Raises TemplateLimitError if `left operator right` would be too large to compute."""
    if operator == "%" and isinstance(left, str):
        _before_format(left, right if isinstance(right, tuple) else (right,))
    elif operator == "*":
        _before_times(left, right)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _before_power(left, right)


def _before_power(left: int, right: int) -> None:
    if left.bit_length() * abs(right) > _MOST_BITS:
        raise TemplateLimitError(f"it raises a number to the power {right:,}")


def _before_times(left: Any, right: Any) -> None:
    for whole, times in ((left, right), (right, left)):
        if isinstance(whole, (str, list, tuple)) and isinstance(times, int):
            limit = MOST_TEXT if isinstance(whole, str) else MOST_PARTS
            if len(whole) * times > limit:
                raise TemplateLimitError(f"it repeats a value {times:,} times")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _MOST_BITS:
        raise TemplateLimitError("it multiplies numbers without end")


def _before_format(text: str, values: Iterable[Any]) -> None:
    """Of `%` and of str.format: as many fields as the text has marks, each as wide as the widest value."""
    if _LONG_NUMBER.search(text) or _WIDTH_FROM_ARGUMENT.search(text):
        raise TemplateLimitError("it formats a text to a width of its choice")
    fields = max(text.count("%"), text.count("{"))
    widest = max((sum(written_out(value)) for value in values), default=0)
    wide = _A_FIELD if any(mark.isdigit() for mark in text) else _A_VALUE
    _require_text(len(text) + fields * (8 * widest + wide) if fields > 1 or wide == _A_FIELD else len(text) + widest)


def _before_replace(text: str, old: str = "", new: str = "", count: int = -1, **_: Any) -> int:
    found = text.count(old) if old else len(text) + 1
    found = min(found, count) if isinstance(count, int) and count >= 0 else found
    _require_text(len(text) + found * max(0, len(new) - len(old)))
    return 0


def _before_join(parts: Any, d: Any = "", *_: Any, **__: Any) -> int:
    if isinstance(parts, Collection):
        _require_text(sum(written_out(list(parts))) + len(parts) * len(str(d)))
    return 0


def before_date(form: Any = "", *_: Any) -> None:
    """Raises TemplateLimitError for a format that would make a date as long as a book."""
    if len(str(form)) > _MOST_DATE:
        raise TemplateLimitError(f"it formats a date by more than {_MOST_DATE:,} characters")


def _before_split(text: str, at: Any = None, *_: Any, **__: Any) -> int:
    pieces = text.count(at) if isinstance(at, str) and at else len(text) // 2
    return _A_VALUE * pieces


def _before_padding(_text: Any, width: Any = 0, *_: Any, **__: Any) -> int:
    _require_width(width)
    return 0


def _before_expandtabs(text: str, width: int = 8, **_: Any) -> int:
    _require_width(width)
    _require_text(len(text) + text.count("\t") * width)
    return 0


def _before_indent(text: Any, width: Any = 4, *_: Any, **__: Any) -> int:
    size = len(width) if isinstance(width, str) else width
    _require_width(size)
    _require_text(len(str(text)) + str(text).count("\n") * size)
    return 0


def _before_formatting(text: Any, *values: Any, **named: Any) -> int:
    _before_format(str(text), [*values, *named.values()])
    return 0


def _before_json(value: Any, *_: Any, indent: Any = None, **__: Any) -> int:
    parts, characters = written_out(value)
    width = len(indent) if isinstance(indent, str) else indent or 0
    _require_width(width)
    _require_text(parts * (8 + width * 8) + characters)
    return 0


def _before_taking_apart(value: Any, *given: Any, **named: Any) -> int:
    """A filter that goes through a text by its characters, or makes as many items as it is told."""
    _require_width(*given, *named.values())
    return _A_VALUE * len(value) if isinstance(value, str) else 0


def _before_sum(_value: Any, *given: Any, start: Any = 0, **__: Any) -> int:
    for first in (start, *given[1:]):
        if not isinstance(first, (int, float)):
            raise TemplateLimitError("it adds up what are no numbers")
    return 0


# Methods of texts that a template may call, and what has to be looked at before. `encode`, `translate` and the like are
# of no use to a chat template.
Before = Callable[..., int]  # bytes it will take beside its result; raises TemplateLimitError
TEXT_METHODS: dict[str, Before | None] = dict.fromkeys(
    (
        "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal",
        "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "lower",
        "lstrip", "partition", "removeprefix", "removesuffix", "rfind", "rindex", "rpartition", "rstrip", "startswith",
        "strip", "swapcase", "title", "upper",
    )
)  # fmt: skip
TEXT_METHODS |= {
    "center": _before_padding,
    "expandtabs": _before_expandtabs,
    "format": _before_formatting,
    "join": lambda between, parts=(), **_: _before_join(parts, between),
    "ljust": _before_padding,
    "replace": _before_replace,
    "rjust": _before_padding,
    "rsplit": _before_split,
    "split": _before_split,
    "splitlines": lambda text, *_, **__: _before_split(text, "\n"),
    "zfill": _before_padding,
}
METHODS: dict[type, Iterable[str]] = {
    str: TEXT_METHODS,
    dict: ("copy", "get", "items", "keys", "values"),
    list: ("copy", "count", "index"),
    tuple: ("count", "index"),
}
# Filters likewise; jinja's others (wordwrap, urlize, xmlattr, striptags, random, …) have no place in a chat template.
FILTERS: dict[str, Before | None] = dict.fromkeys(
    (
        "abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "int",
        "items", "last", "length", "lower", "max", "min", "reverse", "safe", "string", "trim", "upper",
    )
)  # fmt: skip
FILTERS |= {
    "batch": _before_taking_apart,
    "center": _before_padding,
    "format": _before_formatting,
    "groupby": _before_taking_apart,
    "indent": _before_indent,
    "join": _before_join,
    "list": _before_taking_apart,
    "map": _before_taking_apart,
    "reject": _before_taking_apart,
    "rejectattr": _before_taking_apart,
    "replace": lambda text, old="", new="", *_, **named: _before_replace(str(text), str(old), str(new), **named),
    "round": lambda _value, precision=0, *_, **__: _before_round(precision),
    "select": _before_taking_apart,
    "selectattr": _before_taking_apart,
    "slice": _before_taking_apart,
    "sort": _before_taking_apart,
    "sum": _before_sum,
    "title": _before_taking_apart,
    "tojson": _before_json,
    "truncate": _before_padding,
    "unique": _before_taking_apart,
    "wordcount": _before_taking_apart,
}
# These neither compare nor write what is in the list they are given, but hand it on.
SHALLOW_FILTERS = frozenset(
    (
        "attr", "batch", "count", "d", "default", "first", "items", "last", "length", "list", "map", "reject",
        "rejectattr", "reverse", "select", "selectattr", "slice",
    )
)  # fmt: skip
# Tests that compare, hash or write out what they are given; the others look at a type.
WHOLE_TESTS = (
    "==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", ">=", "ge", "<", "lt", "lessthan", "<=", "le", "in",
    "lower", "upper", "filter", "test",
)  # fmt: skip


def _before_round(precision: Any) -> int:
    if isinstance(precision, int) and abs(precision) > 100:
        raise TemplateLimitError(f"it rounds to {precision:,} digits")
    return 0
