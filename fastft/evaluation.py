"""How good the model is: loss on supervised tokens, exact answers to held-out prompts, answers to fixed prompts."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from fastft.data.conversation import Conversation, Example
from fastft.evals.scoring import NOTHING, scores, whole_or_halved
from fastft.trainers.measuring import measure

if TYPE_CHECKING:
    from fastft.data.prepare import PreparedData
    from fastft.data.tokenizer import ChatTokenizer
    from fastft.recipe.schema import EvaluationSection
    from fastft.trainers.method import Method

_LOG = logging.getLogger("fastft")
_TOKENS_A_BATCH = 4096
_ANSWERED_TOKENS = 16_384  # prompts with room for their answers, answered at a time: what their keys and values take


@dataclass(frozen=True, slots=True)
class Answer:
    """One greedy answer; `expected` is the held-out row's own answer, None for a fixed prompt."""

    prompt: str
    answer: str
    expected: str | None = None

    @property
    def exact(self) -> bool:
        return self.answer.strip() == (self.expected or "").strip()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`loss` is the mean negative log-likelihood a supervised token, in nats, over all held-out tokens.

    `metrics` are what the method measures on the held-out rows by itself, by the names its trainer gives them.
    """

    loss: float | None
    perplexity: float | None
    supervised_tokens: int
    answers: tuple[Answer, ...]
    prompts: tuple[Answer, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def exact_share(self) -> float | None:
        return sum(a.exact for a in self.answers) / len(self.answers) if self.answers else None

    def as_dict(self) -> dict[str, Any]:
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "supervised_tokens": self.supervised_tokens,
            "exact_share": self.exact_share,
            "metrics": dict(self.metrics),
            "answers": [asdict(a) | {"exact": a.exact} for a in self.answers],
            "prompts": [asdict(a) for a in self.prompts],
        }


def evaluate_model(
    model: Any,
    tokenizer: ChatTokenizer,
    examples: Sequence[Example],
    conversations: Sequence[Conversation],
    section: EvaluationSection,
) -> Evaluation:
    """Evaluate a loaded model (Unsloth's or transformers') in its current state; its weights are left alone."""
    loss, tokens = supervised_loss(model, examples)
    asked = list(islice((c for c in conversations if _has_text_answer(c)), section.samples))
    held_out = [tokenizer.prompt_ids(c.as_dicts()[:-1], tools=c.tools or None) for c in asked]
    fixed = [tokenizer.prompt_ids([{"role": "user", "content": prompt}]) for prompt in section.prompts]
    texts = answer(model, tokenizer, [*held_out, *fixed], section.max_new_tokens)
    answers = [
        Answer(_last_question(c), text, c.messages[-1].content)
        for c, text in zip(asked, texts[: len(asked)], strict=True)
    ]
    prompts = [Answer(p, t) for p, t in zip(section.prompts, texts[len(asked) :], strict=True)]
    perplexity = math.exp(min(loss, 700.0)) if loss is not None else None
    return Evaluation(loss, perplexity, tokens, tuple(answers), tuple(prompts))


def evaluated_by(
    method: Method, data: PreparedData, section: EvaluationSection
) -> tuple[Sequence[Example], Sequence[Conversation], EvaluationSection]:
    """What `evaluate_model` can ask a model of this method.

    Loss and held-out answers are for methods that learn conversations or texts; a model that gives scores answers
    nothing at all.
    """
    section = section.model_copy(update={"prompts": ()}) if method.classifies else section
    if method.kind != "conversation":
        return (), (), section
    return data.evaluation, data.evaluation_conversations, section


def trainer_metrics(trainer: Any, method: Method) -> dict[str, float]:
    """What the trainer itself measures on the held-out rows, if there are any and it has such measures."""
    if not method.measures or trainer.eval_dataset is None:
        return {}
    found = measure(trainer)
    if absent := [key for key in method.measures if key not in found]:
        _LOG.warning("the trainer did not measure %s, so the tables are without", ", ".join(absent))
    return {key: found[key] for key in method.measures if key in found}


def _has_text_answer(conversation: Conversation) -> bool:
    """Whether the row ends with an answer in words; a tool call has many right spellings."""
    last = conversation.messages[-1] if conversation.messages else None
    return last is not None and last.role == "assistant" and not last.tool_calls


def _last_question(conversation: Conversation) -> str:
    return next((m.content for m in reversed(conversation.messages[:-1]) if m.role != "assistant"), "")


def supervised_loss(model: Any, examples: Sequence[Example]) -> tuple[float | None, int]:
    """(mean nats a supervised token, number of supervised tokens); (None, 0) without examples.

    Token-weighted over the whole set, unlike Trainer.evaluate, which averages the means of batches.
    """
    whole = sum((score for _, score in scores(model, examples, _TOKENS_A_BATCH)), NOTHING)
    return (whole.nats / whole.tokens, whole.tokens) if whole.tokens else (None, 0)


def answer(model: Any, tokenizer: ChatTokenizer, ids: Sequence[list[int]], max_new_tokens: int) -> list[str]:
    """Greedy answers to rendered prompts, in their order; generation ends at the template's end of turn.

    Where memory is short, half as many are answered at a time.
    """
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    texts = [""] * len(ids)
    model.eval()
    for chosen in _at_a_time(order, [len(one) + max_new_tokens for one in ids]):
        work = partial(_generate, model, tokenizer, ids, max_new_tokens)
        for index, text in whole_or_halved(chosen, work):
            texts[index] = text
    return texts


def _generate(
    model: Any, tokenizer: ChatTokenizer, ids: Sequence[list[int]], max_new_tokens: int, chosen: Sequence[int]
) -> list[str]:
    """The answers to the `chosen` prompts among `ids`, all at once."""
    import torch

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.end_of_turn_id
    width = max(len(ids[i]) for i in chosen)
    rows = torch.tensor([[pad] * (width - len(ids[i])) + ids[i] for i in chosen]).to(model.device)
    mask = torch.tensor([[0] * (width - len(ids[i])) + [1] * len(ids[i]) for i in chosen]).to(model.device)
    with torch.no_grad():
        out = model.generate(
            input_ids=rows,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
            eos_token_id=sorted({tokenizer.end_of_turn_id, tokenizer.eos_token_id} - {None}),
            pad_token_id=pad,
        )
    return [tokenizer.decode(row, skip_special_tokens=True) for row in out[:, width:].tolist()]


def _at_a_time(order: Sequence[int], room: Sequence[int]) -> Iterator[list[int]]:
    """`order`, ascending in the `room` that each needs, in pieces that padded fit into _ANSWERED_TOKENS."""
    piece: list[int] = []
    for index in order:
        if piece and (len(piece) + 1) * room[index] > _ANSWERED_TOKENS:
            yield piece
            piece = []
        piece.append(index)
    if piece:
        yield piece
