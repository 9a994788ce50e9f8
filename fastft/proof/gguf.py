"""A GGUF file, run in llama.cpp, against the merged model in transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import ModelError
from fastft.exporters.tensor_types import SCHEMES
from fastft.inference import Generation
from fastft.llamacpp import ChatReply, GGUFModel
from fastft.proof.checks import behaviour_checks, facts_check, ids_check, text_check
from fastft.proof.limits import limits_for
from fastft.proof.measure import Measured, answer_limit, measure_against
from fastft.proof.merged import merge_check
from fastft.proof.probes import MAX_TOKENS, Probe, prompt_ids_now
from fastft.proof.reference import Reference
from fastft.proof.result import Check
from fastft.proof.scores import Comparison

if TYPE_CHECKING:
    import numpy as np

_CHATS = 12  # conversations held through llama.cpp's chat endpoint: enough to cover the built-in prompts


def gguf_checks(reference: Reference, path: Path, kind: str) -> Iterator[Check]:
    """All checks of the file, of the type `kind`; where it can't be loaded, that alone."""
    if isinstance(reference.merged, ModelError):
        detail = f"the merged model it is compared with can't be loaded: {reference.merged.message}"
        yield Check("reference", "none", "the merged model", False, detail)
        return
    context = MAX_TOKENS + answer_limit(reference.probes)
    try:
        with GGUFModel(path, n_ctx=context, exact=True) as model:
            yield Check("loads", "yes", "yes", True)
            yield merge_check(reference, reference.merged, kind)
            yield from _metadata_checks(reference, model, kind)
            yield from _run_checks(reference, reference.merged.measured, model, kind)
    except ModelError as error:
        yield Check("loads", "no", "yes", False, error.message)


def _metadata_checks(reference: Reference, model: GGUFModel, kind: str) -> Iterator[Check]:
    trained = reference.tokenizer
    end, wanted = trained.end_of_turn_id, SCHEMES[kind].file_type
    file_type = int(model.metadata.get("general.file_type", -1))
    facts: list[tuple[str, object, object, bool]] = [
        ("general.file_type", f"{wanted} ({kind})", file_type, file_type == wanted),
        ("a stop token", f"{end} {trained.end_of_turn!r}", f"not {end}", model.is_stop(end)),
        ("eos_token_id", end, model.eos_id, model.eos_id in {end, trained.eos_token_id}),
    ]
    for key, mine in (("bos_token_id", trained.bos_token_id), ("padding_token_id", trained.pad_token_id)):
        theirs = model.metadata.get(f"tokenizer.ggml.{key}")
        facts.append((key, mine, theirs, theirs is None or mine is None or int(theirs) == mine))
    begins = trained.bos_token_id is not None and reference.probes[0].prompt_ids[0] == trained.bos_token_id
    facts.append(("add_bos_token", begins, model.adds_bos, begins or not model.adds_bos))
    yield facts_check("special tokens", facts)


def _run_checks(reference: Reference, merged: Measured, model: GGUFModel, kind: str) -> Iterator[Check]:
    """What only running the model can tell: ids and prompts, distributions, answers, and stopping in a chat."""
    limits = limits_for(kind, reference_dtype=merged.dtype)
    yield _ids_check(reference, model)
    replies: list[tuple[int, Probe, ChatReply]] = []
    try:
        replies = list(_chats(reference, model))
        yield text_check("prompt text", [_fed(probe, reply, reference, model) for _, probe, reply in replies])
    except ModelError as error:
        yield Check("prompt text", "refused", "all equal", False, error.message)
    same = model.n_vocab == merged.vocabulary
    yield Check("vocabulary", f"{model.n_vocab} tokens", f"{merged.vocabulary}", same)
    if same:
        comparison = Comparison(tie=limits.tie)
        found = measure_against(merged, LlamaCpp(model), reference.probes, comparison, dtype=kind)
        yield from behaviour_checks(reference.probes, reference.tokenizer, merged, found, comparison, limits)
        yield _chat_stop_check(replies, found, reference.tokenizer)


def _ids_check(reference: Reference, model: GGUFModel) -> Check:
    trained = reference.tokenizer
    rendered = [trained.render(p.messages, tools=p.tools, add_generation_prompt=True) for p in reference.chats]
    triples = [(p.place, p.prompt_ids, model.tokenize(t)) for p, t in zip(reference.chats, rendered, strict=True)]
    return ids_check("token ids", triples, trained)


def _chat_stop_check(
    replies: Sequence[tuple[int, Probe, ChatReply]], found: Measured, tokenizer: ChatTokenizer
) -> Check:
    """The chat endpoint takes its stop tokens from the file: it must stop where the same answer stopped without it."""
    due = []
    for number, probe, reply in replies:
        answer = found.answers[number]
        text = tokenizer.decode(answer.ids, skip_special_tokens=True).strip()
        if answer.stop_reason == "stop" and reply.text.strip().startswith(text):
            due.append((probe.place, reply.stop_reason == "stop"))
    late = [place for place, stopped in due if not stopped]
    detail = f"first at {late[0]}: no stop token before the limit" if late else ""
    return Check("stops in chat", f"{len(due) - len(late)} of {len(due)} chat answers stop", "all", not late, detail)


def _chats(reference: Reference, model: GGUFModel) -> Iterator[tuple[int, Probe, ChatReply]]:
    """(number, probe, what llama.cpp's chat endpoint made of it): its template engine, its BOS, its stop tokens."""
    chats = [number for number, probe in enumerate(reference.probes) if probe.messages]
    numbers = sorted(chats, key=lambda i: reference.probes[i].answer is not None)
    for number in numbers[:_CHATS]:
        probe = reference.probes[number]
        limit = answer_limit(reference.probes)
        yield number, probe, model.chat(probe.messages, tools=probe.tools, max_tokens=limit)


def _fed(probe: Probe, reply: ChatReply, reference: Reference, model: GGUFModel) -> tuple[str, str, str]:
    """(place, prompt as trained, prompt as fed), both read back from tokens by llama.cpp, so that equal is equal."""
    expected = prompt_ids_now(probe, reference.tokenizer)
    count = reply.prompt_tokens
    more = "" if count == len(expected) else f" [{count} tokens, trained {len(expected)}]"
    return probe.place, model.detokenize(expected, special=True), reply.prompt + more


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """A GGUFModel as an Engine."""

    model: GGUFModel

    @property
    def vocabulary(self) -> int:
        return self.model.n_vocab

    def answers(self, prompts: Sequence[list[int]], limit: int) -> list[Generation]:
        return [self.model.generate(ids, limit) for ids in prompts]

    def logprobs(self, sequences: Sequence[list[int]]) -> Iterator[np.ndarray]:
        return map(self.model.logprobs, sequences)
