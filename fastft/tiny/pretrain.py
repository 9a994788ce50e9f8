"""The tiny model's pretraining: plain torch on the CPU, the same bytes for the same seed and machine."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from fastft.tiny.skills import conversation
from fastft.tiny.tokenizer import END, PAD, VOCAB_SIZE, encode_conversation
from fastft.tiny.world import Draw, World

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

MAX_POSITIONS = 1024
Batch = list[tuple[list[int], list[int]]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast. A batch holds about `tokens` tokens; `threads` is part of what fixes the bytes."""

    steps: int = 4000
    tokens: int = 4096
    peak_rate: float = 3e-3
    warmup: int = 100
    threads: int = 2


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
    """Endless training batches of conversations of like length: little padding, and nothing reads its neighbour."""
    draw = Draw(world, "train", Random(f"pretraining {seed}"))
    while True:
        drawn = [encode_conversation(tokenizer, conversation(draw)[1]) for _ in range(4096)]
        drawn.sort(key=lambda example: len(example[0]))
        chunk: list[Batch] = [[]]
        for example in drawn:
            if (len(chunk[-1]) + 1) * len(example[0]) > tokens:
                chunk.append([])
            chunk[-1].append(example)
        draw.rng.shuffle(chunk)
        yield from chunk


def pretrain(model: LlamaForCausalLM, tokenizer: Tokenizer, world: World, seed: int, plan: Plan) -> None:
    """Trains `model` in place on assistant turns; prints loss and speed every 100 steps."""
    import torch

    torch.set_num_threads(plan.threads)
    torch.use_deterministic_algorithms(True)
    optimizer = _optimizer(model, plan)
    started, seen, recent = time.monotonic(), 0, 0.0
    for step, batch in zip(range(plan.steps), batches(tokenizer, world, seed, plan.tokens), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = plan.peak_rate * _schedule(step, plan)
        loss = _loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seen += sum(len(ids) for ids, _ in batch)
        recent += loss.item()
        if (step + 1) % 100 == 0:
            seconds = time.monotonic() - started
            print(f"step {step + 1} loss {recent / 100:.4f} {seen / seconds:.0f} tokens/s {seconds:.0f} s", flush=True)
            recent = 0.0


def _optimizer(model: LlamaForCausalLM, plan: Plan) -> torch.optim.Optimizer:
    import torch

    matrices = [p for p in model.parameters() if p.ndim > 1]
    norms = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=plan.peak_rate, betas=(0.9, 0.98), fused=True)


def _schedule(step: int, plan: Plan) -> float:
    """Linear warm-up, then a cosine down to 2 % of the peak."""
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    done = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


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
