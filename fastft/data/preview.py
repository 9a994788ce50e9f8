"""Showing what is trained on: the text of an example with its supervised tokens marked."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from fastft.data.conversation import IGNORE, Example
from fastft.data.tokenizer import ChatTokenizer

if TYPE_CHECKING:
    from rich.text import Text

_LEARNED = "bold green"
_READ = "dim"
_MARKER = " reverse"  # control tokens stand out, learned or not


def preview(example: Example, tokenizer: ChatTokenizer) -> Text:
    """The example's whole text: learned tokens bold green and between ⟦ and ⟧, the others dim, control tokens reversed.

    The brackets are for terminals without colour, files and eyes that don't tell green from grey.
    """
    from rich.text import Text

    text = Text(f"{example.place}: {example.supervised} of {len(example.input_ids)} tokens are learned\n")
    added = tokenizer.added_ids
    pairs = zip(example.input_ids, example.labels, strict=True)
    for learned, run in groupby(pairs, key=lambda pair: pair[1] != IGNORE):
        style = _LEARNED if learned else _READ
        text.append("⟦" if learned else "", style=style)
        # Runs, not single tokens, are decoded: one character may be several tokens.
        for marker, tokens in groupby(run, key=lambda pair: pair[0] in added):
            decoded = tokenizer.decode([token for token, _ in tokens])
            text.append(decoded, style=style + (_MARKER if marker else ""))
        text.append("⟧" if learned else "", style=style)
    if example.truncated:
        text.append(f"\n({example.truncated} tokens cut off)", style="yellow")
    return text
