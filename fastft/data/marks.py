"""Where turns lie among the token ids, told by their control tokens: much cheaper than offsets for every token.

A control token written in the text is one id, and what stands before it is tokenised independently of it. So the n-th
closing token of the text is the n-th closing id; and a prompt ends where the ids of its tail ("assistant\\n") after its
last control token end. Used with byte-level tokenizers, whose ids spell their text byte by byte; elsewhere, and where
anything doesn't fit, `boundaries` looks at the offsets.
"""

from __future__ import annotations

from fastft.data.boundaries import BoundaryError
from fastft.data.conversation import IGNORE
from fastft.data.tokenizer import ChatTokenizer
from fastft.data.turns import Rendering, Turn

_LONGEST_TAIL = 80  # characters between a prompt's last control token and its end


class Marks:
    """Finds turns with one tokenizer; `usable` says whether it can."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._closing, self._closing_id = tokenizer.end_of_turn, tokenizer.end_of_turn_id
        self._tails: dict[str, tuple[str, int, list[int]]] = {}
        self._openers: list[str] = []
        self.usable = tokenizer.is_byte_level and not tokenizer.marks_generation and self._is_added()

    def labels(self, ids: list[int], rendering: Rendering) -> list[int] | None:
        """The labels of a rendering's ids, or None if its turns can't be told by marks.

        Raises BoundaryError if a prompt is tokenised otherwise inside the text than alone.
        """
        text = rendering.text
        if text.count(self._closing) != ids.count(self._closing_id):
            return None
        labels = [IGNORE] * len(ids)
        char = token = 0  # up to here the text and the ids are told apart
        for turn in rendering.turns:
            ((begin, end),) = turn.spans
            found = self._prompt_end(ids, text, turn, char, token) if begin == turn.prompt_end else None
            if found is None:
                return None
            last = _nth(ids, self._closing_id, text.count(self._closing, begin, end), found)
            if last is None or not text.endswith(self._closing, begin, end):
                return None
            labels[found:last] = ids[found:last]
            char, token = end, last
        return labels

    def _prompt_end(self, ids: list[int], text: str, turn: Turn, char: int, token: int) -> int | None:
        """The first id after the prompt; `token` ids stand for the first `char` characters."""
        tail = self._tail(text, turn.prompt_end)
        if tail is None:
            return None
        opener, opener_id, tail_ids = tail
        at = text.rfind(opener, char, turn.prompt_end)
        after = _nth(ids, opener_id, text.count(opener, char, at + len(opener)), token) if at >= 0 else None
        if after is None:
            return None
        if ids[after : after + len(tail_ids)] != tail_ids:
            raise BoundaryError
        return after + len(tail_ids)

    def _tail(self, text: str, end: int) -> tuple[str, int, list[int]] | None:
        """(last control token before `end`, its id, ids of what follows it)."""
        for opener in self._openers:
            at = text.rfind(opener, max(0, end - _LONGEST_TAIL), end)
            if at >= 0 and (known := self._tails.get(text[at:end])):
                return known
        match = self._tokenizer.last_added(text, max(0, end - _LONGEST_TAIL), end)
        if match is None:
            return None
        written = text[match[0] : end]
        ids = self._tokenizer.encode(written)
        if len(self._tails) < 1000:
            self._tails[written] = (match[1], ids[0], ids[1:])
            self._openers = list(dict.fromkeys([*self._openers, match[1]]))
        return match[1], ids[0], ids[1:]

    def _is_added(self) -> bool:
        return self._closing_id in self._tokenizer.added_ids


def _nth(ids: list[int], wanted: int, count: int, start: int) -> int | None:
    """The index after the `count`-th `wanted` from `start` on."""
    try:
        for _ in range(count):
            start = ids.index(wanted, start) + 1
    except ValueError:
        return None
    return start
