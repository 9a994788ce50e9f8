"""A person sees what is learned: colours follow the labels."""

from __future__ import annotations

from collections.abc import Callable

from fastft.data.conversation import Conversation
from fastft.data.preview import preview
from fastft.data.render import Renderer
from fastft.data.tokenizer import ChatTokenizer


def test_learned_text_is_coloured_and_bracketed_and_nothing_is_hidden(
    tokenizer: ChatTokenizer, chat: Callable[..., Conversation]
) -> None:
    conversation = chat("user: Why [red]?", "assistant: Because 👋🏽[/]", "user: So", "assistant: Yes")
    (example,) = Renderer(tokenizer, max_length=99).render(conversation).examples
    text = preview(example, tokenizer)
    body = text.plain.partition("\n")[2]
    assert body.replace("⟦", "").replace("⟧", "") == tokenizer.decode(example.input_ids)
    coloured = "".join(text.plain[s.start : s.end] for s in text.spans if "green" in str(s.style))
    end = tokenizer.end_of_turn
    assert coloured == f"⟦Because 👋🏽[/]{end}⟧⟦Yes{end}⟧"
    assert f"{example.supervised} of {len(example.input_ids)} tokens are learned" in text.plain


def test_a_cut_is_said(qwen: ChatTokenizer, chat: Callable[..., Conversation]) -> None:
    (example,) = Renderer(qwen, max_length=50).render(chat("user: a", "assistant: " + "b " * 50)).examples
    assert f"({example.truncated} tokens cut off)" in preview(example, qwen).plain
