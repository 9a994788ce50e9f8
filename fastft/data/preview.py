"""Showing what is trained on: the text of an example with its supervised tokens coloured."""

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
    """The example's whole text: learned tokens bold green, the others dim, control tokens reversed."""
    from rich.text import Text

    text = Text(f"{example.place}: {example.supervised} of {len(example.input_ids)} tokens are learned\n")
    added = tokenizer.added_ids
    pairs = zip(example.input_ids, example.labels, strict=True)
    # Runs, not single tokens, are decoded: one character may be several tokens.
    for (learned, marker), run in groupby(pairs, key=lambda pair: (pair[1] != IGNORE, pair[0] in added)):
        style = (_LEARNED if learned else _READ) + (_MARKER if marker else "")
        text.append(tokenizer.decode([token for token, _ in run]), style=style)
    if example.truncated:
        text.append(f"\n({example.truncated} tokens cut off)", style="yellow")
    return text
