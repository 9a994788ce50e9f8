"""What becomes of examples longer than the maximum length. Cuts fall between tokens, never inside one."""

from __future__ import annotations

from collections.abc import Iterator

from fastft.data.conversation import IGNORE, Conversation, Example, Message


def truncate(example: Example, max_length: int, *, keep_end: bool) -> Example:
    """`example` cut to `max_length` tokens, at its end or, to keep that, at its start."""
    surplus = len(example.input_ids) - max_length
    if surplus <= 0:
        return example
    if keep_end:
        # The first token left has lost what it follows, so nothing is learned from it.
        ids, labels = example.input_ids[surplus:], [IGNORE, *example.labels[surplus + 1 :]]
    else:
        ids, labels = example.input_ids[:max_length], example.labels[:max_length]
    cut = Example(ids, labels, example.place, surplus)
    cut.unlearned = example.supervised - cut.supervised
    return cut


def windows(example: Example, size: int) -> Iterator[Example]:
    """A long text in pieces of at most `size` tokens. Nothing precedes a piece's first token: it isn't learned."""
    for start in range(0, len(example.input_ids), size):
        ids, labels = (row[start : start + size] for row in (example.input_ids, example.labels))
        yield Example(ids, [IGNORE, *labels[1:]], example.place)


def exchanges(conversation: Conversation) -> tuple[tuple[Message, ...], list[list[Message]]]:
    """(system turns at the start, the rest in pieces). A piece begins with a user's turn that follows an answer.

    A tool call, its result and the answer made of it stay in one piece.
    """
    messages = conversation.messages
    begin = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    pieces: list[list[Message]] = []
    answered = True
    for message in messages[begin:]:
        if not pieces or (answered and message.role == "user"):
            pieces.append([])
            answered = False
        pieces[-1].append(message)
        answered = answered or (message.role == "assistant" and not message.tool_calls)
    return messages[:begin], pieces
