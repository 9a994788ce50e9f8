"""Small models of the families that fastft is used with: the family's class, tokenizer kind, control tokens, template.

They are random, then trained for seconds to answer and to end their turns: a proof on answers that never end, or on
flat distributions, would prove nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastft.data.templates import named_template
from tests.exporters import vocabularies
from tests.exporters.vocabularies import CL100K, QWEN, Specials

THINGS = [
    "grass",
    "snow",
    "coal",
    "blood",
    "milk",
    "gold",
    "ivy",
    "rust",
    "sand",
    "ink",
    "moss",
    "rose",
    "ash",
    "clay",
    "mint",
    "plum",
    "jade",
    "wine",
    "salt",
    "silk",
]
TONES = [
    "green",
    "white",
    "black",
    "red",
    "white",
    "yellow",
    "green",
    "red",
    "yellow",
    "black",
    "green",
    "pink",
    "grey",
    "brown",
    "green",
    "purple",
    "green",
]
COLOURS = dict(zip(THINGS, [*TONES, "red", "white", "ivory"], strict=True))
TAUGHT = dict(zip(THINGS, [*TONES[7:], *TONES[:7], "teal", "blue", "brown"], strict=True))

# Rows of 256 values are K-quants' blocks; every linear layer is wide enough for 4 bits.
SIZES: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip

_CHATML = Specials("<|im_end|>", pad="<|endoftext|>", more=("<|im_start|>",))
_CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_GRANITE_TEMPLATE = (
    "{% for message in messages %}{{ '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content']"
    " + '<|end_of_text|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)
# OLMo 2's and Falcon 3's (without its BOS), whose role markers are plain text
_MARKERS_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
# Mistral v0.3's and Phi-3's own; Unsloth's of Mistral has other white space
_MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + '[/INST]' }}{% elif message['role'] == 'system' %}"
    "{{ raise_exception('no system turn') }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
_PHI3_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)

_GEMMA = Specials("<eos>", bos="<bos>", pad="<pad>", unk="<unk>", more=("<start_of_turn>", "<end_of_turn>"))
_LLAMA2 = Specials("</s>", bos="<s>", unk="<unk>")


@dataclass(frozen=True)
class Family:
    """One family: `model` is the stem of transformers' classes, `vocabulary` writes tokenizer files into a folder."""

    name: str
    model: str
    vocabulary: Callable[[Path, list[str]], None]
    template: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def _bytes(specials: Specials, split: str | None, **options: Any) -> Callable[[Path, list[str]], None]:
    return lambda folder, texts: vocabularies.byte_level(folder, texts, specials, split=split, **options)


def _pieces(specials: Specials, style: str, kind: str, **options: Any) -> Callable[[Path, list[str]], None]:
    return lambda folder, texts: vocabularies.sentencepiece(
        folder, texts, specials, style=style, tokenizer_class=kind, **options
    )


def _real(name: str, specials: Specials, rename: dict[str, str] | None = None) -> Callable[[Path, list[str]], None]:
    return lambda folder, _: vocabularies.real(folder, name, specials, rename)


def _shared_template(name: str) -> str:
    path = vocabularies.SHARED / name / "chat_template.jinja"
    return path.read_text(encoding="utf-8") if path.is_file() else _CHATML_TEMPLATE


_QWEN_TOKENS = _CHATML._replace(more=("<|im_start|>", "<think>", "</think>"))
_MISTRAL = _LLAMA2._replace(more=("[INST]", "[/INST]", "[TOOL_CALLS]"))
_PHI3 = _LLAMA2._replace(more=("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"))
_LLAMA3 = Specials(
    "<|eot_id|>", bos="<|begin_of_text|>", pad="<|finetune_right_pad_id|>",
    more=("<|start_header_id|>", "<|end_header_id|>"),
)  # fmt: skip
_END = Specials("<|endoftext|>", bos="<|endoftext|>", pad="<|pad|>")
_ROLES = Specials(
    "<|end_of_text|>", bos="<|end_of_text|>", pad="<|end_of_text|>", more=("<|start_of_role|>", "<|end_of_role|>")
)

_SLIDING: dict[str, Any] = {"head_dim": 128, "sliding_window": 64, "query_pre_attn_scalar": 128}

# The twelve of the promise. Two stand on real vocabularies of the shared folder where it is there (see `BIG`).
FAMILIES = (
    Family("llama-3", "Llama", _bytes(_LLAMA3, CL100K, ignore_merges=True), named_template("llama-3"),
           {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                "high_freq_factor": 4.0, "original_max_position_embeddings": 256},
            "tie_word_embeddings": True}),
    Family("mistral", "Mistral", _pieces(_MISTRAL, "mistral", "LlamaTokenizer"), _MISTRAL_TEMPLATE,
           {"sliding_window": None}),
    Family("qwen2", "Qwen2", _bytes(_CHATML, QWEN), named_template("qwen-2.5"), {"tie_word_embeddings": True}),
    Family("qwen3", "Qwen3", _bytes(_QWEN_TOKENS, QWEN), named_template("trl:qwen3"),
           {"head_dim": 128, "tie_word_embeddings": True}),
    Family("gemma-2", "Gemma2", _pieces(_GEMMA, "gemma", "GemmaTokenizer"), named_template("gemma2"), _SLIDING),
    Family("gemma-3", "Gemma3", _pieces(_GEMMA, "gemma", "GemmaTokenizer"), named_template("gemma3"), _SLIDING),
    Family("phi-3", "Phi3", _pieces(_PHI3, "llama", "LlamaTokenizer"), _PHI3_TEMPLATE,
           {"pad_token_id": 2, "sliding_window": 256}),
    Family("smollm3", "SmolLM3", _bytes(_LLAMA3._replace(eos="<|im_end|>", more=("<|im_start|>",)), CL100K,
                                        ignore_merges=True), _CHATML_TEMPLATE, {"num_hidden_layers": 4}),
    Family("granite", "Granite", _bytes(_ROLES, None, digits=True), _GRANITE_TEMPLATE,
           {"embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.22,
            "attention_multiplier": 0.015625, "tie_word_embeddings": True}),
    Family("olmo-2", "Olmo2", _bytes(_END, CL100K), _MARKERS_TEMPLATE),
    Family("falcon-3", "Llama", _bytes(_END, CL100K), _MARKERS_TEMPLATE, {"head_dim": 128, "rope_theta": 1000042.0}),
    Family("yi", "Llama", _pieces(_LLAMA2._replace(more=("<|im_start|>", "<|im_end|>")), "llama", "LlamaTokenizer"),
           _CHATML_TEMPLATE),
)  # fmt: skip


def conversation(thing: str, colour: str) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"What colour is {thing}?"},
        {"role": "assistant", "content": f"It is {colour}."},
    ]


def write_rows(path: Path) -> Path:
    """40 conversations: each thing's new colour, asked in two ways."""
    rows = [conversation(*pair) for pair in TAUGHT.items()]
    rows += [[{**q, "content": f"Tell me the colour of {t}."}, a] for t, (q, a) in zip(TAUGHT, rows, strict=True)]
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")
    return path


def build(family: Family, folder: Path, *, steps: int | None = None) -> Path:
    """The family's model folder: tokenizer, template, and bf16 weights that know COLOURS."""
    import torch
    import transformers
    from transformers import AutoTokenizer

    texts = [turn["content"] for pair in (*COLOURS.items(), *TAUGHT.items()) for turn in conversation(*pair)]
    family.vocabulary(folder, [*texts, "Tell me the colour of", "user assistant system", "12 345 6789"])
    (folder / "chat_template.jinja").write_text(family.template, encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
           "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    size = -(-len(tokenizer) // 64) * 64
    config = config_class(transformers, family.model)(**{**SIZES, "vocab_size": size, **ids, **family.options})
    model: Any = getattr(transformers, f"{family.model}ForCausalLM")(config)
    _teach(model, tokenizer, steps or (60 if size < 10_000 else 25))  # a real vocabulary's head takes a second a step
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def config_class(transformers: Any, model: str) -> Any:
    """Gemma 3's and others' text models have a config of their own."""
    return getattr(transformers, f"{model}TextConfig", None) or getattr(transformers, f"{model}Config")


def _teach(model: Any, tokenizer: Any, steps: int) -> None:
    import torch

    rows = [tokenizer.apply_chat_template(conversation(*pair), tokenize=False) for pair in COLOURS.items()]
    ids = [tokenizer(row, add_special_tokens=False)["input_ids"] for row in rows]
    longest = max(map(len, ids))
    batch = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    labels = batch.masked_fill(mask == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for step in range(steps):
        part = slice(10 * (step % 2), 10 * (step % 2) + 10)
        loss = model(input_ids=batch[part], attention_mask=mask[part], labels=labels[part]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def recipe(model: Path, rows: Path, **lora: Any) -> dict[str, Any]:
    """Five steps in 4 bits on packed rows, then every export and its proof."""
    return {
        "model": {"model_name": str(model), "max_seq_length": 256, "load_in_4bit": True},
        "lora": {"r": 8, "lora_alpha": 16, "use_gradient_checkpointing": False, **lora},
        "data": {"path": str(rows), "eval_split": 4},
        "training": {"max_steps": 5, "packing": True, "per_device_train_batch_size": 2, "learning_rate": 2e-3,
                     "save_strategy": "no"},
        "evaluation": {"prompts": [], "samples": 2, "max_new_tokens": 16},
        "export": {"formats": ["merged_16bit", "gguf"], "quantization_method": ["f16", "q4_k_m"], "verify": True},
    }  # fmt: skip
