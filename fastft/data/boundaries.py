"""From characters to tokens: which tokens a span of text became, and whether a prompt's ids stand on their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastft.data.tokenizer import ChatTokenizer
from fastft.data.turns import Span, Turn

if TYPE_CHECKING:
    from tokenizers import Encoding

_LONGEST_KEPT_TAIL = 80  # characters; only templates without control tokens have longer ones, and those don't recur


class BoundaryError(Exception):
    """A token reaches across the start of an answer, or the prompt alone is tokenised differently."""


class PromptCheck:
    """Proves that the ids before a turn are those of its prompt encoded alone.

    Added tokens cut the text before it is tokenised, so only what follows the last of them can differ; that
    tail ("assistant\\n") is nearly always the same string and its ids are kept.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = tokenizer.added_ids
        self._tails: dict[str, list[int]] = {}

    def check(self, ids: list[int], text: str, turn: Turn, encoding: Encoding) -> None:
        """Raises BoundaryError."""
        end = _token_with(encoding, turn.prompt_end)
        begin = end
        while begin > 0 and ids[begin - 1] not in self._added:
            begin -= 1
        begin = max(begin - 1, 0)  # with the added token itself, so that the tail is tokenised as inside the text
        tail = text[_start_of(encoding, begin) : turn.prompt_end]
        # Also unequal if a token reaches across the prompt's end: the tail's ids then lack what it holds of the tail.
        if self._encoded(tail) != ids[begin:end]:
            raise BoundaryError

    def _encoded(self, tail: str) -> list[int]:
        if len(tail) > _LONGEST_KEPT_TAIL:
            return self._tokenizer.encode(tail)
        if tail not in self._tails:
            self._tails[tail] = self._tokenizer.encode(tail)
        return self._tails[tail]


def tokens_of(encoding: Encoding, span: Span, length: int) -> tuple[int, int]:
    """[first, last) of the tokens that hold a character of `span`, in a text of `length` characters.

    A span begins at the prompt's end, which is a token's start (see PromptCheck), or where the template marks
    generation within the turn; there a token that reaches across the mark is one the model writes, so it is learned.
    """
    first = _token_with(encoding, span[0])
    if span[1] == length:
        return first, len(encoding.ids)
    last = _token_with(encoding, span[1])
    return first, last if _start_of(encoding, last) == span[1] else last + 1


def _token_with(encoding: Encoding, char: int) -> int:
    """The first token that holds character `char`. Raises BoundaryError if normalising took it away."""
    token = encoding.char_to_token(char)
    if token is None:
        raise BoundaryError
    return token


def _start_of(encoding: Encoding, token: int) -> int:
    span = encoding.token_to_chars(token)
    if span is None:
        raise BoundaryError
    return span[0]
