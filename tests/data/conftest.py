"""Tokenizers and conversations the data tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fastft.data.conversation import Conversation, Message
from fastft.data.tokenizer import ChatTokenizer


@pytest.fixture(scope="session")
def qwen(qwen_tokenizer: Path) -> ChatTokenizer:
    return ChatTokenizer.load(qwen_tokenizer)


@pytest.fixture(scope="session")
def llama(llama_tokenizer: Path) -> ChatTokenizer:
    return ChatTokenizer.load(llama_tokenizer)


@pytest.fixture(scope="session", params=["qwen", "llama"])
def tokenizer(request: pytest.FixtureRequest) -> ChatTokenizer:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def chat() -> Callable[..., Conversation]:
    """chat("user: hi", "assistant: hello") -> Conversation."""

    def make(*turns: str) -> Conversation:
        pairs = (turn.split(": ", 1) for turn in turns)
        return Conversation(tuple(Message(role, content) for role, content in pairs), "chat.jsonl:1")

    return make
