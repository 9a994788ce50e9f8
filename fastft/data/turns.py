"""Where the assistant's turns lie in a rendered conversation: the character spans that labels are built from.

A turn's place is never searched for by marker strings. The prompt that inference would feed for a turn is rendered
from the messages before it; the conversation's rendering must begin with exactly that text, so the turn starts where
the prompt ends. It ends with the template's end-of-turn token, directly after the turn's own content.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastft.data.conversation import Conversation, Message
from fastft.data.faults import RowRefusedError
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import ModelError

Span = tuple[int, int]


class HistoryRewrittenError(Exception):
    """The template renders earlier turns differently once later turns follow, so one example can't hold them all."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant turn of a rendering: `text[:prompt_end]` is what inference feeds, `spans` what the model writes.

    There is one span, unless the template marks several parts of the turn with `{% generation %}`.
    """

    prompt_end: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Rendering:
    text: str
    turns: tuple[Turn, ...]


class TurnFinder:
    """Renders conversations with one tokenizer's template and locates the turns to train on."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._current: Conversation | None = None  # rendered several times in a row
        self._dicts: list[dict[str, Any]] = []

    def whole(self, conversation: Conversation, wanted: Sequence[int]) -> Rendering:
        """The conversation up to the last wanted message, with the turns of the messages `wanted` (indices).

        Raises RowRefusedError, or HistoryRewrittenError if one rendering can't hold all turns as inference sees them.
        """
        last = wanted[-1]
        messages = conversation.messages[: last + 1]
        text, blocks = self._render(conversation, last + 1)
        turns: list[Turn] = []
        end = written = 0  # of the previous assistant turn: its end in `text`, the index after its message
        for index in (i for i, message in enumerate(messages) if message.role == "assistant"):
            start = self._start(text, conversation, index)
            _check_written(text[end:start], messages[written:index])
            alone = text if index == last else self._render(conversation, index + 1)[0]
            end = self._end(alone, start, messages[index])
            if not text.startswith(alone[:end]):
                raise HistoryRewrittenError
            written = index + 1
            if index in wanted:
                turns.append(Turn(start, self._spans((start, end), blocks)))
        _check_tools(text, conversation)
        return Rendering(text[:end], tuple(turns))

    def single(self, conversation: Conversation, index: int) -> Rendering:
        """Prompt and answer of one assistant message alone, as inference meets it. Raises RowRefusedError."""
        text, blocks = self._render(conversation, index + 1)
        try:
            start = self._start(text, conversation, index)
        except HistoryRewrittenError as error:
            raise RowRefusedError("the template does not begin an answer with its own generation prompt") from error
        _check_written(text[:start], [m for m in conversation.messages[:index] if m.role != "assistant"])
        _check_tools(text, conversation)
        end = self._end(text, start, conversation.messages[index])
        return Rendering(text[:end], (Turn(start, self._spans((start, end), blocks)),))

    def unmarked(self, conversation: Conversation) -> str:
        """The whole conversation as text, checked to hold every message's content. Raises RowRefusedError."""
        text, _ = self._render(conversation, len(conversation.messages))
        _check_written(text, conversation.messages)
        _check_tools(text, conversation)
        return text

    def _render(self, conversation: Conversation, count: int, *, prompt: bool = False) -> tuple[str, list[Span]]:
        if self._current is not conversation:
            self._current, self._dicts = conversation, conversation.as_dicts()
        try:
            return self._tokenizer.render_spans(
                self._dicts[:count], tools=conversation.tools, add_generation_prompt=prompt
            )
        except ModelError as error:
            raise RowRefusedError("the chat template refuses the messages", error.message) from error

    def _start(self, text: str, conversation: Conversation, index: int) -> int:
        if index == 0:
            raise RowRefusedError("the row begins with an answer, which has no prompt")
        prompt, _ = self._render(conversation, index, prompt=True)
        if not text.startswith(prompt):
            raise HistoryRewrittenError
        return len(prompt)

    def _end(self, text: str, start: int, message: Message) -> int:
        """Just after the end-of-turn token that closes `message`, whose writing begins at `start`."""
        closing = self._tokenizer.end_of_turn
        at = text.find(closing, start)
        while at >= 0:
            if _is_turn(text[start:at], message):
                return at + len(closing)
            at = text.find(closing, at + 1)
        if message.tool_calls and not all(_is_written(part, text[start:]) for part in message.texts()):
            raise RowRefusedError("the template does not write tool calls", message.tool_calls[0]["function"]["name"])
        if message.reasoning_content and not _is_written(message.reasoning_content, text[start:]):
            raise RowRefusedError("the template does not write reasoning", shortened(message.reasoning_content))
        raise RowRefusedError(
            "the template does not write an answer whole and close it with its end-of-turn token",
            f"looked for {shortened(message.content)!r} followed by {closing}",
        )

    def _spans(self, turn: Span, blocks: Sequence[Span]) -> tuple[Span, ...]:
        """The parts of a turn inside `{% generation %}` blocks, or all of it where the template has no such marks.

        The end-of-turn token always belongs to the last part: some templates close the block before it.
        """
        if not self._tokenizer.marks_generation:
            return (turn,)
        inside = [(max(a, turn[0]), min(b, turn[1])) for a, b in blocks if a < turn[1] and b > turn[0]]
        if not inside:
            raise RowRefusedError("the template does not mark the answer as generated")
        return (*inside[:-1], (inside[-1][0], turn[1]))


def _is_turn(written: str, message: Message) -> bool:
    """Whether `written` is all of the turn: it ends with the content, or holds every part where calls follow it.

    Templates may trim the outer white space of a content; nothing else may change.
    """
    if not message.tool_calls and not written.rstrip().endswith(message.content.strip()):
        return False
    return all(_is_written(part, written) for part in message.texts())


def _is_written(part: str, text: str) -> bool:
    """As it is but for outer white space, or as a JSON string (how some templates write a tool's answer)."""
    part = part.strip()
    return part in text or json.dumps(part, ensure_ascii=False)[1:-1] in text or json.dumps(part)[1:-1] in text


def _check_written(text: str, messages: Sequence[Message]) -> None:
    for message in messages:
        for part in message.texts():
            if not _is_written(part, text):
                what = "name" if part == message.name else "content"
                raise RowRefusedError(
                    f"the template leaves out the {what} of {_article(message.role)} turn", shortened(part)
                )


def _article(role: str) -> str:
    return "an assistant" if role == "assistant" else f"a {role}"


def _check_tools(text: str, conversation: Conversation) -> None:
    for tool in conversation.tools:
        name = tool.get("function", tool).get("name", "")
        if not _is_written(name, text):
            raise RowRefusedError("the template does not write the tools", name)


def shortened(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def control_token(tokenizer: ChatTokenizer, conversation: Conversation) -> str | None:
    """The first control token written out in the row's own text: encoded, it would act as the token itself."""
    for message in conversation.messages:
        for part in message.texts():
            found = tokenizer.control_token_in(part)
            if found:
                return found
    return (
        tokenizer.control_token_in(json.dumps(conversation.tools, ensure_ascii=False)) if conversation.tools else None
    )
