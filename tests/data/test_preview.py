"""A person sees what is learned: colours follow the labels, and nothing is hidden."""

from __future__ import annotations

import random
from collections.abc import Callable

from fastft.data.conversation import IGNORE, Conversation, Example
from fastft.data.preview import draw, fragments, pieces, preview
from fastft.data.render import Renderer
from fastft.data.tokenizer import ChatTokenizer

Chat = Callable[..., Conversation]


def _example(tokenizer: ChatTokenizer, conversation: Conversation) -> Example:
    (example,) = Renderer(tokenizer, max_length=999).render(conversation).examples
    return example


def _seen_as_written(plain: str) -> str:
    """The shown text without what the preview adds to it."""
    for added in ("⟦", "⟧", "↵"):
        plain = plain.replace(added, "")
    return plain.replace("·", " ").replace("→", "")


def test_learned_text_is_coloured_and_bracketed_and_nothing_is_hidden(tokenizer: ChatTokenizer, chat: Chat) -> None:
    conversation = chat("user: Why [red]?", "assistant: Because 👋🏽[/]", "user: So", "assistant: Yes")
    example = _example(tokenizer, conversation)
    text = preview(example, tokenizer)
    body = text.plain.partition("\n")[2]
    assert _seen_as_written(body) == tokenizer.decode(example.input_ids)
    coloured = "".join(text.plain[s.start : s.end] for s in text.spans if "green" in str(s.style))
    end = tokenizer.end_of_turn
    assert coloured == f"⟦Because 👋🏽[/]{end}⟧⟦Yes{end}⟧"
    reversed_text = [text.plain[s.start : s.end] for s in text.spans if "reverse" in str(s.style)]
    assert "".join(reversed_text) == "".join(p.text for p in pieces(example, tokenizer) if p.special)
    assert f"{example.supervised} of {len(example.input_ids)} tokens are learned" in text.plain


def test_a_cut_is_said(qwen: ChatTokenizer, chat: Chat) -> None:
    (example,) = Renderer(qwen, max_length=50).render(chat("user: a", "assistant: " + "b " * 50)).examples
    assert example.unlearned == example.truncated
    told = f"({example.truncated} tokens cut off, {example.truncated} of them to learn)"
    assert told in preview(example, qwen).plain


def test_pieces_join_to_the_whole_text_and_hold_every_id_once(tokenizer: ChatTokenizer) -> None:
    rng = random.Random(0)
    letters = "ab c\n\t你好👩‍👩‍👧🇩🇪e\u0301\u00a0ไहि𝔘\ufffd שלום 123"
    for _ in range(100):
        text = "".join(rng.choice(letters) for _ in range(rng.randint(1, 60)))
        ids = [*tokenizer.encode(text), tokenizer.end_of_turn_id]
        cut = rng.randint(1, len(ids) - 1)
        example = Example(ids, [IGNORE] * cut + ids[cut:], "row 1")
        shown = pieces(example, tokenizer)
        assert [token for piece in shown for token in piece.ids] == ids
        assert [token for piece in shown if piece.learned for token in piece.ids] == ids[cut:]
        # Labels may part a character only here, where they were put at random; then each side shows its bytes.
        joined = "".join(piece.text for piece in shown)
        if tokenizer.decode(ids[:cut]) + tokenizer.decode(ids[cut:]) == tokenizer.decode(ids):
            assert joined == tokenizer.decode(ids)
        assert (shown[-1].special, shown[-1].text) == (True, tokenizer.end_of_turn)


def test_ids_stand_behind_their_tokens(qwen: ChatTokenizer, chat: Chat) -> None:
    example = _example(qwen, chat("system: s", "user: Hi", "assistant: Hello there 𝔘"))
    shown = preview(example, qwen, ids=True).plain.splitlines()[1:]
    assert shown == [
        "<|im_start|>‹151644›system‹8948›↵‹198›",
        "s‹82›<|im_end|>‹151645›↵‹198›",
        "<|im_start|>‹151644›user‹872›↵‹198›",
        "Hi‹13048›<|im_end|>‹151645›↵‹198›",
        "<|im_start|>‹151644›assistant‹77091›↵‹198›",
        f"⟦Hello‹9707›·there‹1052›·𝔘‹{' '.join(map(str, qwen.encode(' 𝔘')))}›<|im_end|>‹151645›⟧",
    ]


def test_white_space_at_edges_and_what_would_steer_the_terminal_are_visible(llama: ChatTokenizer) -> None:
    text = "a b\x1b[31m\u202eX\u00a0Y \n"
    ids = [*llama.encode(text), llama.end_of_turn_id]
    shown = draw(fragments(pieces(Example(ids, [IGNORE, *ids[1:]], "row 1"), llama))).plain
    assert shown == "a⟦·b⟨U+001B⟩[31m⟨U+202E⟩X⟨U+00A0⟩Y·↵\n<|eot_id|>⟧"
    blank = [*llama.encode("\n\n"), llama.end_of_turn_id]
    shown = draw(fragments(pieces(Example(blank, [IGNORE] * 2, "row 1"), llama), ids=True)).plain
    assert shown == "↵\n↵‹271›\n<|eot_id|>‹128009›"
