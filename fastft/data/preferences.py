"""Preference pairs, single judged answers and bare prompts become examples, by the same rendering as conversations.

A pair becomes two examples, the chosen answer's and the rejected one's; a judged answer one; a prompt one without
anything supervised. In the examples of a pair or a judged answer the supervised ids are one run, from the first token
of the answer to its end-of-turn token, and all before it is the prompt as inference feeds it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from fastft.data.conversation import IGNORE, Conversation, Example, Message
from fastft.data.faults import Dropped, RowRefusedError
from fastft.data.render import Rendered, Renderer
from fastft.data.turns import control_token

if TYPE_CHECKING:
    from fastft.data.formats import Kind
    from fastft.data.tokenizer import ChatTokenizer

LONG_PROMPT = "the prompt is longer than max_seq_length less max_completion_length"
SAME = "both answers are the same, so there is nothing to prefer"


def rendered_as(
    kind: Kind, renderer: Renderer, tokenizer: ChatTokenizer, conversations: Iterable[Conversation], max_length: int
) -> Iterator[Rendered]:
    """One Rendered for each conversation of a kind, in order."""
    match kind:
        case "preference":
            return render_pairs(renderer, conversations)
        case "unpaired":
            return render_judged(renderer, conversations)
        case "prompt":
            return render_prompts(tokenizer, conversations, max_length)
    return renderer.render_all(conversations)


def render_pairs(renderer: Renderer, conversations: Iterable[Conversation]) -> Iterator[Rendered]:
    """One Rendered for each pair, in order, with its two examples: chosen, rejected."""
    begun: deque[Conversation] = deque()

    def sides() -> Iterator[Conversation]:
        for conversation in conversations:
            begun.append(conversation)
            yield _with_answer(conversation, conversation.chosen)
            yield _with_answer(conversation, conversation.rejected)

    rendered = renderer.render_all(sides())
    for chosen, rejected in zip(rendered, rendered, strict=True):
        conversation = begun.popleft()
        try:
            pair = _answered(chosen), _answered(rejected)
            _require_pair(*pair)
        except RowRefusedError as error:
            yield Rendered(conversation, (), (Dropped(conversation.place, error.reason, error.detail),))
        else:
            yield Rendered(conversation, pair)


def render_judged(renderer: Renderer, conversations: Iterable[Conversation]) -> Iterator[Rendered]:
    """One Rendered for each judged answer, in order, with one example."""
    begun: deque[Conversation] = deque()

    def answers() -> Iterator[Conversation]:
        for conversation in conversations:
            begun.append(conversation)
            yield _with_answer(conversation, conversation.chosen or conversation.rejected)

    for rendered in renderer.render_all(answers()):
        conversation = begun.popleft()
        try:
            yield Rendered(conversation, (_answered(rendered),))
        except RowRefusedError as error:
            yield Rendered(conversation, (), (Dropped(conversation.place, error.reason, error.detail),))


def render_prompts(
    tokenizer: ChatTokenizer, conversations: Iterable[Conversation], max_length: int
) -> Iterator[Rendered]:
    """One Rendered for each prompt, in order: its ids as inference feeds them, nothing supervised."""
    for conversation in conversations:
        try:
            yield Rendered(conversation, (_prompt(tokenizer, conversation, max_length),))
        except RowRefusedError as error:
            yield Rendered(conversation, (), (Dropped(conversation.place, error.reason, error.detail),))


def _with_answer(conversation: Conversation, answer: tuple[Message, ...]) -> Conversation:
    """Prompt and answer as one conversation, of which only the answer's turns are to be learned."""
    prompt = tuple(replace(message, weight=0.0) for message in conversation.messages)
    return Conversation((*prompt, *answer), conversation.place, tools=conversation.tools)


def _answered(rendered: Rendered) -> Example:
    """The one example of an answer, all of it supervised. Raises RowRefusedError where there is not exactly one.

    An answer of several turns counts whole, the user's turns between included, as TRL counts it.
    """
    if rendered.dropped:
        drop = rendered.dropped[0]
        raise RowRefusedError(drop.reason, drop.detail)
    if len(rendered.examples) != 1:
        raise RowRefusedError("the template rewrites an answer of several turns, so that it is no single sequence")
    example = rendered.examples[0]
    learned = [i for i, label in enumerate(example.labels) if label != IGNORE]
    start, end = learned[0], learned[-1] + 1
    ids = example.input_ids[:end]
    return replace(example, input_ids=ids, labels=[IGNORE] * start + ids[start:])


def _require_pair(chosen: Example, rejected: Example) -> None:
    """Raises RowRefusedError for a pair that can't be compared: another prompt, or the same answer."""
    starts = [sum(label == IGNORE for label in side.labels) for side in (chosen, rejected)]
    if chosen.input_ids[: starts[0]] != rejected.input_ids[: starts[1]]:
        raise RowRefusedError("the template writes the prompt differently before the two answers")
    if chosen.input_ids == rejected.input_ids:
        cut = chosen.truncated or rejected.truncated
        raise RowRefusedError(f"{SAME} within max_length" if cut else SAME)


def _prompt(tokenizer: ChatTokenizer, conversation: Conversation, max_length: int) -> Example:
    if found := control_token(tokenizer, conversation):
        raise RowRefusedError("a message holds a control token of the model as text", found)
    ids = tokenizer.prompt_ids(conversation.as_dicts(), tools=conversation.tools or None)
    if len(ids) > max_length:
        raise RowRefusedError(LONG_PROMPT, f"{len(ids):,} tokens, and {max_length:,} are left for it")
    return Example(ids, [IGNORE] * len(ids), conversation.place)
