"""The tiny model's tokenizer: byte-level BPE over the world's text, with Qwen2's pre-tokenizer and ChatML turns."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fastft.tiny.world import Messages

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCAB_SIZE = 1536
PAD, TURN, END = SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

# To the letter the pattern of Qwen2's tokenizer, so that llama.cpp's own "qwen2" pre-tokenizer splits the same.
# No normalizer: llama.cpp has none, and the ids must be the same there for every text.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": None,
    "eos_token": END,
    "pad_token": PAD,
    "add_bos_token": False,
    "model_max_length": 1024,
    "clean_up_tokenization_spaces": False,
    "padding_side": "right",
    "model_input_names": ["input_ids", "attention_mask"],
}


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """BPE merges learned from `texts`. Every byte is a token, so any text goes there and back unchanged."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(_CONFIG, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def encode_conversation(tokenizer: Tokenizer, messages: Messages) -> tuple[list[int], list[int]]:
    """Token ids and labels of the rendered conversation: assistant contents and their end-of-turn, else -100."""
    ids: list[int] = []
    labels: list[int] = []
    for message in messages:
        answer = message["role"] == "assistant"
        head = tokenizer.encode(f"{TURN}{message['role']}\n").ids
        body = tokenizer.encode(f"{message['content']}{END}").ids
        tail = tokenizer.encode("\n").ids
        ids += head + body + tail
        labels += [-100] * len(head) + (body if answer else [-100] * len(body)) + [-100] * len(tail)
    return ids, labels


def prompt_ids(tokenizer: Tokenizer, messages: Messages) -> list[int]:
    """The ids that the model is fed to answer `messages`."""
    return encode_conversation(tokenizer, messages)[0] + tokenizer.encode(f"{TURN}assistant\n").ids
