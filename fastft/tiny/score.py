"""Exact-match scores of greedy answers, a skill at a time, on conversations whose keys were never trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

from fastft.tiny.skills import SKILLS
from fastft.tiny.tokenizer import END, PAD, prompt_ids
from fastft.tiny.world import Draw, Messages, World

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import GenerationMixin

Answer = Callable[[Sequence[Messages]], list[str]]


def heldout(world: World, skill: str, count: int, seed: int = 0) -> list[Messages]:
    """`count` held-out conversations of one skill, the same for the same seed."""
    draw = Draw(world, "heldout", Random(f"heldout {skill} {seed}"))
    return [SKILLS[skill][0](draw) for _ in range(count)]


def greedy_answers(
    model: GenerationMixin, tokenizer: Tokenizer, prompts: Sequence[Messages], max_new_tokens: int = 96
) -> list[str]:
    """The greedy answer to each prompt, with its end-of-turn token, so that one that never ends can't match."""
    import torch

    answers = [""] * len(prompts)
    encoded = [prompt_ids(tokenizer, messages) for messages in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    pad, end = tokenizer.token_to_id(PAD), tokenizer.token_to_id(END)
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        width = max(len(encoded[i]) for i in rows)
        ids = torch.tensor([[pad] * (width - len(encoded[i])) + encoded[i] for i in rows])
        with torch.inference_mode():
            out = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
                input_ids=ids, attention_mask=(ids != pad).long(), do_sample=False,
                max_new_tokens=max_new_tokens, eos_token_id=end, pad_token_id=pad,
            )  # fmt: skip
        for i, row in zip(rows, out[:, width:].tolist(), strict=True):
            answers[i] = tokenizer.decode([token for token in row if token != pad], skip_special_tokens=False)
    return answers


def exact(conversations: Sequence[Messages], answer: Answer) -> float:
    """Share of the assistant turns answered exactly, each after the true turns before it, end of turn included."""
    prompts, wanted = [], []
    for messages in conversations:
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                prompts.append(messages[:i])
                wanted.append(message["content"] + END)
    given = answer(prompts)
    return sum(a == b for a, b in zip(given, wanted, strict=True)) / len(wanted)
