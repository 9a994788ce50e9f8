"""The tiny tokenizer: made again to the byte, loses no text, splits as Qwen2's does, renders ChatML."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from fastft.tiny.build import make_tokenizer
from fastft.tiny.tokenizer import CHAT_TEMPLATE, PATTERN, SPECIAL, VOCAB_SIZE, encode_conversation, prompt_ids
from fastft.tiny.world import World

TEXTS = (
    "Ana's boats, they're 12345 & IT'S   fine \n\n\t x ",
    "🚀 😶\u200d🌫️ 你好世界 नमस्ते",
    "é e\u0301 ﬁ ½ \u00a0\u3000\u200b\u2028",
    "\x00\x01\r\n\r \x7f",
    "{\"name\": \"Ana\"}\n\n\n",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
)  # fmt: skip
MESSAGES = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": " two\nlines "},
]


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny / "tokenizer.json"))


def test_made_again_to_the_byte(tiny: Path, tmp_path: Path) -> None:
    made = tmp_path / "tokenizer.json"
    make_tokenizer(World.from_seed(0), 0).save(str(made))
    assert made.read_bytes() == (tiny / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_unchanged(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_every_byte_is_a_token(tokenizer: Tokenizer) -> None:
    text = "".join(map(chr, range(256))) + "\U0010ffff"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    assert tokenizer.get_vocab_size() == VOCAB_SIZE


def test_special_tokens(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2]
    assert tokenizer.encode("a<|im_end|>").ids[-1] == 2


def test_pre_tokenizer_is_that_of_qwen2(qwen_tokenizer: Path) -> None:
    real = json.loads((qwen_tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    assert real["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] == PATTERN


def test_template_renders_chatml(tiny: Path) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    assert (tiny / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    rendered, _ = render_jinja_template([MESSAGES], chat_template=CHAT_TEMPLATE, add_generation_prompt=True)
    assert rendered == [
        "<|im_start|>system\nAnswer in one word.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\n two\nlines <|im_end|>\n<|im_start|>assistant\n"
    ]


def test_pretraining_ids_are_those_of_the_rendered_template(tokenizer: Tokenizer) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template([MESSAGES], chat_template=CHAT_TEMPLATE, add_generation_prompt=True)
    assert prompt_ids(tokenizer, MESSAGES) == tokenizer.encode(rendered[0]).ids


def test_labels_are_the_answer_and_its_end(tokenizer: Tokenizer) -> None:
    ids, labels = encode_conversation(tokenizer, MESSAGES)
    learned = [label for label in labels if label != -100]
    assert learned == tokenizer.encode("Hello!<|im_end|>").ids
    assert all(label in (-100, token) for label, token in zip(labels, ids, strict=True))
