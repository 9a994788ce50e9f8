"""The tiny model's pretraining: plain torch on the CPU, the same bytes for the same seed and machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import TYPE_CHECKING

from fastft.tiny.exercises import copying
from fastft.tiny.skills import conversation
from fastft.tiny.tokenizer import END, PAD, VOCAB_SIZE, encode_conversation
from fastft.tiny.world import Draw, Messages, World

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

MAX_POSITIONS = 1024
POOL = 2048  # conversations that are sorted by length together
COPYING_POOLS = 10
Batch = list[tuple[list[int], list[int]]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast. A batch holds about `tokens` tokens; `threads` is part of what fixes the bytes."""

    steps: int = 4000
    tokens: int = 2048
    peak_rate: float = 3e-3
    warmup: int = 60
    cooldown: float = 0.8
    threads: int = 1


def new_model(tokenizer: Tokenizer, seed: int) -> LlamaForCausalLM:
    """A Llama of random weights. Every linear layer is at least 64 wide (NF4) with rows of n x 256 (K-quants)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=256, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=MAX_POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.token_to_id(END), pad_token_id=tokenizer.token_to_id(PAD),
    )  # fmt: skip
    return LlamaForCausalLM(config)


def batches(tokenizer: Tokenizer, world: World, seed: int, tokens: int) -> Iterator[Batch]:
    """Endless training batches of conversations of like length: little padding, and nothing reads its neighbour.

    The first pools are plain copying, where answers are dense and random: attention learns there in 0.8 million
    tokens to find what followed a word before. In the mixture alone it had not after 4 million, and what is asked
    about notes stands on it.
    """
    draw = Draw(world, "train", Random(f"pretraining {seed}"))
    for pool in count():
        make = copying if pool < COPYING_POOLS else _any_skill
        drawn = [encode_conversation(tokenizer, make(draw)) for _ in range(POOL)]
        yield from _by_length(drawn, draw.rng, tokens)


def _any_skill(draw: Draw) -> Messages:
    return conversation(draw)[1]


def _by_length(examples: Batch, rng: Random, tokens: int) -> list[Batch]:
    """Batches of about `tokens` ids, padding included, each of examples of like length, in random order."""
    grouped: list[Batch] = [[]]
    for example in sorted(examples, key=lambda example: len(example[0])):
        if (len(grouped[-1]) + 1) * len(example[0]) > tokens:
            grouped.append([])
        grouped[-1].append(example)
    rng.shuffle(grouped)
    return grouped


def pretrain(model: LlamaForCausalLM, tokenizer: Tokenizer, world: World, seed: int, plan: Plan) -> None:
    """Trains `model` in place on assistant turns; prints loss and speed every 100 steps."""
    import torch

    torch.set_num_threads(plan.threads)
    torch.use_deterministic_algorithms(True)
    optimizers = _optimizers(model, plan)
    started, seen, recent = time.monotonic(), 0, 0.0
    for step, batch in zip(range(plan.steps), batches(tokenizer, world, seed, plan.tokens), strict=False):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = plan.peak_rate * _schedule(step, plan)
        loss = _loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seen += sum(len(ids) for ids, _ in batch)
        recent += loss.item()
        if (step + 1) % 100 == 0:
            seconds = time.monotonic() - started
            print(f"step {step + 1} loss {recent / 100:.4f} {seen / seconds:.0f} tokens/s {seconds:.0f} s", flush=True)
            recent = 0.0


def _optimizers(model: LlamaForCausalLM, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers (half the tokens AdamW needs here), AdamW for embeddings and norms."""
    import torch

    matrices, others = [], []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=plan.peak_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=plan.peak_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def _schedule(step: int, plan: Plan) -> float:
    """Linear warm-up, a plateau, and a linear way down to 2 % over the last `cooldown` share of the steps."""
    left = (plan.steps - step) / (plan.steps * plan.cooldown)
    return min(1.0, (step + 1) / plan.warmup, max(0.02, left))


def _loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the supervised tokens; logits (supervised, vocabulary) are made for those alone."""
    import torch

    width = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in batch])
    labels = torch.tensor([row + [-100] * (width - len(row)) for _, row in batch])[:, 1:]
    # Padding is on the right and attention causal, so no position of a conversation ever sees it: no mask.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden[labels != -100])
    return torch.nn.functional.cross_entropy(logits.float(), labels[labels != -100])
