"""Showing what is trained on: the text of an example with its supervised tokens marked.

An example becomes pieces (the smallest groups of tokens that are whole characters), pieces become fragments (what
is drawn, each of one kind), and fragments become coloured text here or a page in preview_html.py.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from fastft.data.conversation import IGNORE, Example
from fastft.data.tokenizer import ChatTokenizer

if TYPE_CHECKING:
    from rich.text import Text

Kind = Literal["text", "special", "mark", "id", "bracket"]

_LEARNED = "bold green"
_READ = "dim"
_STYLES: dict[Kind, str] = {"text": "", "special": "reverse", "mark": "yellow", "id": "cyan", "bracket": ""}
# What stands for white space at the edge of a span, where an eye would miss it. A line is still broken after ↵.
_EDGE = {" ": "·", "\n": "↵\n", "\t": "→\t", "\r": "␍"}

# Of the same categories as what is hidden, but part of ordinary text; joiners make one sign of several, as in 👩‍👧.
_SEEN = " \n\t\u3000\u200c\u200d"


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens that make whole characters together; mostly one token. `special`: a token the template writes."""

    text: str
    ids: tuple[int, ...]
    learned: bool
    special: bool


@dataclass(frozen=True, slots=True)
class Fragment:
    """Text of one look. A "mark" stands for white space or a control character, an "id" for the token before it."""

    text: str
    kind: Kind
    learned: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """One example to be drawn, below what is said about it."""

    heading: str
    pieces: tuple[Piece, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """What is shown of one thing asked for: an example, a row, a packed sequence. `source` is a row as it was read."""

    heading: str
    notes: tuple[str, ...] = ()
    shown: tuple[Shown, ...] = ()
    source: str = ""


def preview(example: Example, tokenizer: ChatTokenizer, *, ids: bool = False) -> Text:
    """The example's whole text: learned tokens bold green and between ⟦ and ⟧, the others dim, control tokens reversed.

    The brackets are for terminals without colour, files and eyes that don't tell green from grey. `ids` puts the id
    of each token behind it.
    """
    from rich.text import Text

    text = Text(f"{example.place}: {learned_share(example)}\n")
    text.append_text(draw(fragments(pieces(example, tokenizer), ids=ids)))
    if example.truncated:
        text.append(f"\n({cut_off(example)})", style="yellow")
    return text


def shown(heading: str, example: Example, tokenizer: ChatTokenizer) -> Shown:
    return Shown(heading, tuple(pieces(example, tokenizer)), (cut_off(example),) if example.truncated else ())


def learned_share(example: Example) -> str:
    return f"{example.supervised:,} of {len(example.input_ids):,} tokens are learned"


def cut_off(example: Example) -> str:
    learned = f", {example.unlearned:,} of them to learn" if example.unlearned else ""
    return f"{example.truncated:,} tokens cut off{learned}"


def draw(drawn: Iterable[Fragment]) -> Text:
    """Fragments as coloured text for a terminal."""
    from rich.text import Text

    text = Text()
    for fragment in drawn:
        text.append(fragment.text, style=f"{_LEARNED if fragment.learned else _READ} {_STYLES[fragment.kind]}".strip())
    return text


def pieces(example: Example, tokenizer: ChatTokenizer) -> list[Piece]:
    """The example's tokens with their text; joined, the text is that of all tokens decoded at once."""
    added = tokenizer.added_ids
    found: list[Piece] = []
    pairs = zip(example.input_ids, example.labels, strict=True)
    for (learned, special), run in groupby(pairs, key=lambda pair: (pair[1] != IGNORE, pair[0] in added)):
        pending: list[int] = []
        for token, _ in run:
            pending.append(token)
            text = _text_after(found, pending, tokenizer)
            # A character of several tokens decodes to U+FFFD until its last one.
            if text and not text.endswith("\ufffd"):
                found.append(Piece(text, tuple(pending), learned, special))
                pending = []
        if pending:
            found.append(Piece(_text_after(found, pending, tokenizer), tuple(pending), learned, special))
    return found


def _text_after(found: Sequence[Piece], tokens: Sequence[int], tokenizer: ChatTokenizer) -> str:
    """The text of `tokens` where they stand: SentencePiece decoders strip the space of a first token."""
    before = found[-1].ids if found else ()
    return tokenizer.decode([*before, *tokens])[len(tokenizer.decode(before)) :]


def fragments(parts: Sequence[Piece], *, ids: bool = False) -> Iterator[Fragment]:
    """What is drawn of `parts`. White space is made visible at the edges of spans; with `ids`, of every piece."""
    for learned, run in groupby(parts, key=lambda piece: piece.learned):
        if learned:
            yield Fragment("⟦", "bracket", learned)
        for special, same in groupby(run, key=lambda piece: piece.special):
            spans = [(piece.text, piece.ids) for piece in same]
            if not ids:
                spans = [("".join(text for text, _ in spans), ())]
            for text, tokens in spans:
                yield from _span(text, tokens, special=special, learned=learned)
        if learned:
            yield Fragment("⟧", "bracket", learned)


def _span(text: str, ids: tuple[int, ...], *, special: bool, learned: bool) -> Iterator[Fragment]:
    core = text.strip(" \n\t\r")
    left = text.index(core) if core else len(text)
    before, after = _at_edge(text[:left]), _at_edge(text[left + len(core) :])
    number = f"‹{' '.join(map(str, ids))}›" if ids else ""
    # An id belongs to its token, so it stands before the line is broken.
    after, broken = (after[:-1], "\n") if number and after.endswith("\n") else (after, "")
    before, broken = (before[:-1], "\n") if number and not core and before.endswith("\n") else (before, broken)
    plain: Kind = "special" if special else "text"
    body = _units(core, plain)
    drawn: list[tuple[str, Kind]] = [(before, "mark"), *body, (after, "mark"), (number, "id"), (broken, "mark")]
    yield from (Fragment(unit, kind, learned) for unit, kind in drawn if unit)


def _at_edge(space: str) -> str:
    return "".join(_EDGE[character] for character in space)


def _units(text: str, plain: Kind) -> Iterator[tuple[str, Kind]]:
    """`text` in parts of the kind `plain`; what can't be seen, or would steer the terminal, is written as its code."""
    for hidden, run in groupby(text, key=_is_hidden):
        part = "".join(run)
        yield ("".join(f"⟨U+{ord(character):04X}⟩" for character in part), "mark") if hidden else (part, plain)


def _is_hidden(character: str) -> bool:
    if character in _SEEN:
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Co", "Cn", "Zs", "Zl", "Zp")
