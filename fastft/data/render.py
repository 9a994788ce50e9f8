"""Conversations become token ids and labels together: what is trained on falls out of the rendering."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Literal

from fastft.data.boundaries import BoundaryError, PromptCheck, tokens_of
from fastft.data.conversation import IGNORE, Conversation, Example, Message
from fastft.data.faults import Dropped, RowRefusedError
from fastft.data.marks import Marks
from fastft.data.tokenizer import ChatTokenizer
from fastft.data.truncation import exchanges, truncate, windows
from fastft.data.turns import HistoryRewrittenError, Rendering, TurnFinder, control_token, shortened
from fastft.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding

TrainOn = Literal["assistant", "last", "tool_calls", "all"]
Truncation = Literal["keep_start", "keep_end", "drop", "split_turns"]

TOO_LONG = "nothing to learn within max_length"
_CHUNK = 512  # conversations tokenised at once: enough to keep all cores busy, small enough to keep memory flat


@dataclass(frozen=True, slots=True)
class Rendered:
    """What one conversation became: one example, or one for each answer (`split`), or none."""

    conversation: Conversation
    examples: tuple[Example, ...]
    dropped: tuple[Dropped, ...] = ()
    split: bool = False
    unanswered: int = 0  # turns after the last answer that is learned, which are left out
    in_pieces: bool = False  # longer than the maximum length, and cut between turns


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
        self._prompts = PromptCheck(tokenizer)
        self._marks = Marks(tokenizer)
        self._max_length = max_length
        self._train_on = train_on
        self._truncation = truncation

    def render_all(self, conversations: Iterable[Conversation]) -> Iterator[Rendered]:
        """One Rendered for each conversation, in order.

        Chunks are tokenised in a thread, which needs no Python, while the next one is read and rendered here.
        """
        source = iter(conversations)
        with ThreadPoolExecutor(1) as pool:
            begun: _Chunk | None = None
            while chunk := list(islice(source, _CHUNK)):
                plans = [self._plan(conversation) for conversation in chunk]
                texts = [plan.text for plan in plans if isinstance(plan, Rendering)]
                following = _Chunk(chunk, plans, pool.submit(self._encode, texts))
                if begun is not None:
                    yield from self._finished(begun)
                begun = following
            if begun is not None:
                yield from self._finished(begun)

    def _encode(self, texts: list[str]) -> list[Encoding]:
        return self._tokenizer.encode_batch(texts, offsets=not self._marks.usable)

    def _finished(self, chunk: _Chunk) -> Iterator[Rendered]:
        encodings = iter(chunk.encodings.result())
        for conversation, plan in zip(chunk.conversations, chunk.plans, strict=True):
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
                if any(message.weight != 1 for message in conversation.messages):
                    raise RowRefusedError("a message has weight 0, and data.train_on: all learns the whole text")
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
        messages = conversation.messages
        answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
        if not answers:
            raise RowRefusedError("the row has no assistant turn")
        if self._train_on == "tool_calls" and not (answers := [i for i in answers if messages[i].tool_calls]):
            raise RowRefusedError("no assistant turn calls a tool")
        chosen = answers[-1:] if self._train_on == "last" else answers
        if not (wanted := [i for i in chosen if messages[i].weight]):
            raise RowRefusedError("every turn to learn has weight 0")
        for index in wanted:
            message = conversation.messages[index]
            if not (message.content.strip() or message.tool_calls or message.reasoning_content):
                raise RowRefusedError("an assistant turn is empty", f"turn {index + 1}")
        return wanted

    def _finish(self, conversation: Conversation, rendering: Rendering, encoding: Encoding) -> Rendered:
        ids = list(encoding.ids)
        if self._truncation == "split_turns" and len(ids) > self._max_length and conversation.messages:
            return self._split_at_turns(conversation)
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
        if self._marks.usable:
            labels = self._marks.labels(ids, rendering)
            if labels is not None:
                return labels
            (encoding,) = self._tokenizer.encode_batch([rendering.text])
        labels = [IGNORE] * len(ids)
        for turn in rendering.turns:
            self._prompts.check(ids, rendering.text, turn, encoding)
            for span in turn.spans:
                first, last = tokens_of(encoding, span, len(rendering.text))
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
            except BoundaryError:
                dropped.append(
                    Dropped(conversation.place, "an answer has no place among the tokens", f"turn {index + 1}")
                )
        return self._cut(conversation, examples, tuple(dropped), split=True)

    def _split_at_turns(self, conversation: Conversation) -> Rendered:
        """Several examples, each of as many whole exchanges as fit, with the system turn before them."""
        pieces, lost = [], []
        system, parts = exchanges(conversation)
        held: list[Message] = []
        for exchange in parts:
            if held and self._fits(replace(conversation, messages=(*system, *held, *exchange))) is None:
                pieces.append(held)
                held = []
            held = [*held, *exchange]
        examples: list[Example] = []
        for messages in (*pieces, held):
            piece = replace(conversation, messages=(*system, *messages))
            fitting = self._fits(piece)
            if fitting is None:
                reason = "an exchange is longer than max_length"
                lost.append(Dropped(conversation.place, reason, shortened(messages[0].content)))
            else:
                examples += fitting.examples
                lost += fitting.dropped
        unanswered = self._unanswered(conversation)
        return Rendered(conversation, tuple(examples), tuple(lost), unanswered=unanswered, in_pieces=True)

    def _fits(self, conversation: Conversation) -> Rendered | None:
        """The conversation rendered alone, or None if it is longer than max_length."""
        plan = self._plan(conversation)
        if isinstance(plan, Dropped):
            return Rendered(conversation, (), (plan,))
        if isinstance(plan, _Split):
            whole = self._split(conversation, plan)
            return None if any(example.truncated for example in whole.examples) else whole
        (encoding,) = self._tokenizer.encode_batch([plan.text])
        return None if len(encoding.ids) > self._max_length else self._finish(conversation, plan, encoding)

    def _continued(self, rendering: Rendering, place: str) -> Example:
        (turn,), text = rendering.turns, rendering.text
        prompt, answer = self._tokenizer.encode_batch([text[: turn.prompt_end], text[turn.prompt_end :]])
        ids = [*prompt.ids, *answer.ids]
        labels = [IGNORE] * len(ids)
        for start, end in turn.spans:
            span = (start - turn.prompt_end, end - turn.prompt_end)
            first, last = (len(prompt.ids) + at for at in tokens_of(answer, span, len(text) - turn.prompt_end))
            labels[first:last] = ids[first:last]
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
        if self._truncation == "split_turns" and conversation.text is not None:
            examples = [window for example in examples for window in windows(example, self._max_length)]
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
                lost.append(Dropped(example.place, TOO_LONG, detail))
        return Rendered(conversation, tuple(kept), tuple(lost), split, self._unanswered(conversation))

    def _unanswered(self, conversation: Conversation) -> int:
        if conversation.text is not None or self._train_on == "all":
            return 0
        try:
            return len(conversation.messages) - 1 - self._wanted(conversation)[-1]
        except RowRefusedError:
            return 0


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Conversations whose texts are being tokenised."""

    conversations: list[Conversation]
    plans: list[Rendering | _Split | Dropped]
    encodings: Future[list[Encoding]]


@dataclass(frozen=True, slots=True)
class _Split:
    """Render these messages (indices of assistant turns) one by one."""

    wanted: Sequence[int]


def _first_supervised(example: Example) -> int:
    return next((i for i, label in enumerate(example.labels) if label != IGNORE), len(example.labels))
