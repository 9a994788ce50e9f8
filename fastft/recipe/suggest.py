"""The nearest valid name to a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 200  # characters; a longer text is no misspelt name, and comparing takes the square of them


def nearest(word: str, candidates: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The candidate most like `word`, whatever its case and hyphens, or "" if none is."""
    if len(word) > _LONGEST:
        return ""
    plain = {_plain(candidate): candidate for candidate in candidates}
    close = difflib.get_close_matches(_plain(word), plain, n=1, cutoff=cutoff)
    return plain[close[0]] if close else ""


def listed(words: Iterable[str], *, limit: int = 12) -> str:
    """ "a, b, c", shortened with a count if there are many."""
    names = list(words)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def _plain(word: str) -> str:
    return word.lower().replace("-", "_").replace(" ", "_")
