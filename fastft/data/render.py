"""Conversations become token ids and labels together: what is trained on falls out of the rendering."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

from fastft.data.conversation import IGNORE, Conversation, Example
from fastft.data.faults import RowRefusedError
from fastft.data.tokenizer import ChatTokenizer
from fastft.data.turns import HistoryRewrittenError, Rendering, Turn, TurnFinder, control_token
from fastft.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding

TrainOn = Literal["assistant", "last", "all"]
Truncation = Literal["keep_start", "keep_end", "drop"]

_CHUNK = 512  # conversations tokenised at once: enough to keep all cores busy, small enough to keep memory flat

_LONGEST_KEPT_TAIL = 80  # characters; only templates without control tokens have longer ones, and those don't recur


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row, or an answer of it, that nothing can be learned from. `reason` is one of few, for counting."""

    place: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What one conversation became: one example, or one for each answer (`split`), or none."""

    conversation: Conversation
    examples: tuple[Example, ...]
    dropped: tuple[Dropped, ...] = ()
    split: bool = False
    unanswered: int = 0  # turns after the last answer, which are left out


class BoundaryError(Exception):
    """A token reaches across the start of an answer, or the prompt alone is tokenised differently."""


class Renderer:
    """Turns conversations into examples of at most `max_length` tokens.

    Invariants of every example of a chat row: the ids before an answer are exactly what inference feeds for it
    (`ChatTokenizer.prompt_ids` of the messages before), the supervised ids decode to the answer as the template
    writes it and its end-of-turn token, and the first label is -100.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        *,
        max_length: int,
        train_on: TrainOn = "assistant",
        truncation: Truncation = "keep_start",
    ) -> None:
        self._tokenizer = tokenizer
        self._finder = TurnFinder(tokenizer)
        self._prompts = _PromptCheck(tokenizer)
        self._max_length = max_length
        self._train_on = train_on
        self._truncation = truncation

    def render_all(self, conversations: Iterable[Conversation]) -> Iterator[Rendered]:
        """One Rendered for each conversation, in order; tokenises in chunks."""
        source = iter(conversations)
        while chunk := list(islice(source, _CHUNK)):
            plans = [self._plan(conversation) for conversation in chunk]
            texts = [plan.text for plan in plans if isinstance(plan, Rendering)]
            encodings = iter(self._tokenizer.encode_batch(texts))
            for conversation, plan in zip(chunk, plans, strict=True):
                if isinstance(plan, Rendering):
                    yield self._finish(conversation, plan, next(encodings))
                elif isinstance(plan, _Split):
                    yield self._split(conversation, plan)
                else:
                    yield Rendered(conversation, (), (plan,))

    def render(self, conversation: Conversation) -> Rendered:
        return next(self.render_all([conversation]))

    def _plan(self, conversation: Conversation) -> Rendering | _Split | Dropped:
        """The text to tokenise and its turns; which answers to render one by one; or why nothing can be learned."""
        try:
            if conversation.text is not None:
                return self._plan_text(conversation.text)
            found = control_token(self._tokenizer, conversation)
            if found:
                raise RowRefusedError("a message holds a control token of the model as text", found)
            if self._train_on == "all":
                return Rendering(self._finder.unmarked(conversation), ())
            wanted = self._wanted(conversation)
            try:
                return self._finder.whole(conversation, wanted)
            except HistoryRewrittenError:
                return _Split(wanted)
        except RowRefusedError as error:
            return Dropped(conversation.place, error.reason, error.detail)

    def _plan_text(self, text: str) -> Rendering:
        if not text.strip():
            raise RowRefusedError("the text is empty")
        if self._tokenizer.eos_token is None:
            raise ModelError(
                f"the tokenizer in {self._tokenizer.folder} names no eos_token, which ends a text to train on",
                hint="Train on conversations, or add eos_token to its tokenizer_config.json.",
            )
        return Rendering(text, ())

    def _wanted(self, conversation: Conversation) -> list[int]:
        """Indices of the messages to train on. Raises RowRefusedError if there are none or one says nothing."""
        answers = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
        if not answers:
            raise RowRefusedError("the row has no assistant turn")
        wanted = answers[-1:] if self._train_on == "last" else answers
        for index in wanted:
            message = conversation.messages[index]
            if not (message.content.strip() or message.tool_calls or message.reasoning_content):
                raise RowRefusedError("an assistant turn is empty", f"turn {index + 1}")
        return wanted

    def _finish(self, conversation: Conversation, rendering: Rendering, encoding: Encoding) -> Rendered:
        ids = list(encoding.ids)
        if not rendering.turns:
            return self._cut(conversation, [self._whole_example(conversation, ids)])
        try:
            labels = self._labels(ids, rendering, encoding)
        except BoundaryError:
            return self._split(conversation, _Split(self._wanted(conversation)))
        return self._cut(conversation, [Example(ids, labels, conversation.place)])

    def _whole_example(self, conversation: Conversation, ids: list[int]) -> Example:
        """Every token is learned. Raw text is framed as a document of its own: BOS where the model has it, and EOS."""
        if conversation.text is not None:
            start, end = self._tokenizer.document_start, self._tokenizer.eos_token_id
            ids = ids if ids[: len(start)] == start else [*start, *ids]
            ids = ids if ids[-1:] == [end] or end is None else [*ids, end]
        return Example(ids, [IGNORE, *ids[1:]], conversation.place)

    def _labels(self, ids: list[int], rendering: Rendering, encoding: Encoding) -> list[int]:
        labels = [IGNORE] * len(ids)
        for turn in rendering.turns:
            self._prompts.check(ids, rendering.text, turn, encoding)
            for start, end in turn.spans:
                first = _token_at(encoding, start)
                last = len(ids) if end == len(rendering.text) else _token_at(encoding, end)
                labels[first:last] = ids[first:last]
        return labels

    def _split(self, conversation: Conversation, plan: _Split) -> Rendered:
        """One example for each answer: its prompt as inference feeds it, then the answer as its continuation."""
        examples, dropped = [], []
        for index in plan.wanted:
            try:
                rendering = self._finder.single(conversation, index)
                examples.append(self._continued(rendering, conversation.place))
            except RowRefusedError as error:
                dropped.append(Dropped(conversation.place, error.reason, error.detail))
        return self._cut(conversation, examples, tuple(dropped), split=True)

    def _continued(self, rendering: Rendering, place: str) -> Example:
        turn, text = rendering.turns[0], rendering.text
        pieces, cursor = [(text[: turn.prompt_end], False)], turn.prompt_end
        for start, end in turn.spans:
            pieces += [(text[cursor:start], False), (text[start:end], True)]
            cursor = end
        ids: list[int] = []
        labels: list[int] = []
        for piece, learned in pieces:
            piece_ids = self._tokenizer.encode(piece) if piece else []
            ids += piece_ids
            labels += piece_ids if learned else [IGNORE] * len(piece_ids)
        # A tokenizer that marks the start of a text (SentencePiece) would change the answer's first word.
        if self._tokenizer.decode(ids) != self._tokenizer.decode(self._tokenizer.encode(text)):
            raise RowRefusedError(
                "the tokenizer can't continue the prompt with the answer", text[turn.prompt_end :][:40]
            )
        return Example(ids, labels, place)

    def _cut(
        self,
        conversation: Conversation,
        examples: list[Example],
        dropped: tuple[Dropped, ...] = (),
        *,
        split: bool = False,
    ) -> Rendered:
        """Apply the truncation rule; an example with nothing left to learn is dropped."""
        kept, lost = [], list(dropped)
        for example in examples:
            length = len(example.input_ids)
            if length > self._max_length and self._truncation == "drop":
                lost.append(Dropped(example.place, "longer than max_length", f"{length} tokens"))
                continue
            shorter = truncate(example, self._max_length, keep_end=self._truncation == "keep_end")
            if shorter.supervised:
                kept.append(shorter)
            else:
                detail = f"{length} tokens, the first to learn is token {_first_supervised(example) + 1}"
                lost.append(Dropped(example.place, "nothing to learn within max_length", detail))
        return Rendered(conversation, tuple(kept), tuple(lost), split, self._unanswered(conversation))

    def _unanswered(self, conversation: Conversation) -> int:
        if conversation.text is not None or self._train_on == "all":
            return 0
        roles = [message.role for message in conversation.messages]
        return roles[::-1].index("assistant")


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


@dataclass(frozen=True, slots=True)
class _Split:
    """Render these messages (indices of assistant turns) one by one."""

    wanted: Sequence[int]


class _PromptCheck:
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
        end = _token_at(encoding, turn.prompt_end)
        begin = end
        while begin > 0 and ids[begin - 1] not in self._added:
            begin -= 1
        begin = max(begin - 1, 0)  # with the added token itself, so that the tail is tokenised as inside the text
        tail = text[_start_of(encoding, begin) : turn.prompt_end]
        if self._encoded(tail) != ids[begin:end]:
            raise BoundaryError

    def _encoded(self, tail: str) -> list[int]:
        if len(tail) > _LONGEST_KEPT_TAIL:
            return self._tokenizer.encode(tail)
        if tail not in self._tails:
            self._tails[tail] = self._tokenizer.encode(tail)
        return self._tails[tail]


def _token_at(encoding: Encoding, char: int) -> int:
    """The token that begins at character `char`. Raises BoundaryError if none does."""
    token = encoding.char_to_token(char)
    if token is None or _start_of(encoding, token) != char:
        raise BoundaryError
    return token


def _start_of(encoding: Encoding, token: int) -> int:
    span = encoding.token_to_chars(token)
    if span is None:
        raise BoundaryError
    return span[0]


def _first_supervised(example: Example) -> int:
    return next((i for i, label in enumerate(example.labels) if label != IGNORE), len(example.labels))
