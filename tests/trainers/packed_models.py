"""Loss and gradients of packed examples against the same examples alone, in plain transformers and float32.

Run as a program, because a process that has imported unsloth has other attention than transformers'. It prints JSON:
for each architecture and attention the losses, and the largest difference of a gradient against the largest gradient.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fastft.document_attention import attend_by_document

LENGTHS = (5, 17, 9, 40, 3, 12, 28, 8)
CAPACITY = 64
WINDOW = 8  # of Gemma's sliding layers: shorter than most examples
SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
GEMMA: dict[str, Any] = {
    "head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip


def examples() -> list[dict[str, list[int]]]:
    """Random ids; the first third of each example is a prompt, which is not learned."""
    rows = [[(31 * i + 17 * j + i * j) % 300 + 10 for j in range(length)] for i, length in enumerate(LENGTHS)]
    return [{"input_ids": ids, "labels": [-100] * (1 + len(ids) // 3) + ids[1 + len(ids) // 3 :]} for ids in rows]


def models() -> Iterator[tuple[str, Any]]:
    """Random models of every architecture that tests/trainers/test_packing.py names, by type and attention."""
    import transformers as t

    moe: dict[str, Any] = {"num_experts_per_tok": 2, "num_local_experts": 4}
    alternate: dict[str, Any] = {"head_dim": 16, "sliding_window": WINDOW, "layer_types": GEMMA["layer_types"]}
    both, sdpa, eager = ("eager", "sdpa"), ("sdpa",), ("eager",)
    for config, attentions in (
        (t.LlamaConfig(**SIZES), both),
        (t.Qwen2Config(**SIZES), both),
        (t.Qwen3Config(**SIZES, head_dim=16), both),
        (t.GemmaConfig(**SIZES, head_dim=16), sdpa),
        # Soft-capping low enough to be felt by random weights.
        (t.Gemma2Config(**SIZES, **GEMMA, attn_logit_softcapping=1.0, final_logit_softcapping=2.0), both),
        (t.Gemma3TextConfig(**SIZES, **GEMMA), both),
        (t.MistralConfig(**SIZES, sliding_window=WINDOW), sdpa),
        (t.Phi3Config(**SIZES, pad_token_id=0), sdpa),
        (t.Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64), sdpa),
        (t.Lfm2Config(**SIZES, layer_types=["conv", "full_attention"] * 2), sdpa),
        (t.GptOssConfig(**SIZES, **alternate, **moe), eager),
    ):
        config.initializer_range = 0.2  # attention that looks somewhere
        for attention in attentions:
            t.set_seed(0)
            model = t.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
            yield f"{config.model_type} {attention}", model
            if attention == "sdpa" and attend_by_document(model):
                yield f"{config.model_type} documents", model


def packed_batches() -> list[dict[str, Any]]:
    """As they are fed in training: packed and collated by TRL."""
    from datasets import Dataset
    from trl.data_utils import pack_dataset
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    return [collate([row]) for row in pack_dataset(Dataset.from_list(examples()), CAPACITY, strategy="bfd")]


def learn(model: Any, batches: list[dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    """The loss over all supervised tokens of the batches, and its gradients."""
    model.zero_grad()
    tokens = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    loss = sum(model(**batch, use_cache=False, num_items_in_batch=tokens).loss for batch in batches)
    assert not isinstance(loss, int)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}


def compare(model: Any) -> dict[str, float]:
    import torch

    alone = [{key: torch.tensor([value]) for key, value in row.items()} for row in examples()]
    packed = packed_batches()
    merged = [{key: value for key, value in batch.items() if key != "position_ids"} for batch in packed]
    loss, gradients = learn(model, alone)
    packed_loss, packed_gradients = learn(model, packed)
    merged_loss, _ = learn(model, merged)
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    apart = max(float((packed_gradients[name] - gradients[name]).abs().max()) for name in gradients)
    return {
        "alone": loss,
        "packed": packed_loss,
        "merged": merged_loss,
        "gradients": apart / largest,
        "sequences": len(packed),
    }


if __name__ == "__main__":
    print("RESULT" + json.dumps({name: compare(model.float().eval()) for name, model in models()}))
