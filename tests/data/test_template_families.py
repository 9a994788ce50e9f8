"""A property test over generated conversations: every template family with every tokenizer learns each turn exactly.

The two real tokenizers lack the control tokens of most families, which must then be refused when they are loaded;
the third is Qwen's with the control tokens of all families added.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from fastft.data.conversation import Conversation, Message
from fastft.data.render import Rendered, Renderer
from fastft.data.templates import named_template
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import ModelError
from tests.data.families import ALL, CLOSINGS, REFUSED, UNLOADABLE, learned_texts, make_chameleon, opening_of

SPECIALS = {
    "qwen": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "llama": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "chameleon": {"bos_token": "<bos>", "eos_token": "</s>"},
}
ALPHABETS = (
    "abcdef XYZ 0123456789 .,;:!?",
    " \n\t\u00a0\u2028a",
    "{}[]()<>|/\\\"'`#*_=+-&%$@~^",
    "äöüßéèñçåøæœ e\u0301\u0308\u0327 n\u0303",
    "你好世界こんにちは안녕하세요 ไทย हिन्दी",
    "שלום مرحبا \u200f\u202b\u202c",
    "👍🏽👩‍👩‍👧🇩🇪❤️🔥𝔘𝕟𝕚\u200d\ufe0f",
)
KINDS = ("text", "system", "tools", "reasoning")
PER_KIND = 10
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather somewhere.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Where."}},
            "required": ["city"],
        },
    },
}


def _text(rng: random.Random) -> str:
    letters = "".join(rng.sample(ALPHABETS, rng.randint(1, 3)))
    return "".join(rng.choice(letters) for _ in range(rng.randint(1, 30))).strip("\n") + rng.choice("ab你 \n") + "z"


def _conversation(rng: random.Random, kind: str, number: int) -> Conversation:
    messages = [Message("system", _text(rng))] if kind == "system" else []
    for _ in range(rng.randint(1, 3)):
        messages.append(Message("user", _text(rng)))
        if kind == "tools":
            function = {"name": "get_weather", "arguments": {"city": _text(rng).strip()}}
            call = {"type": "function", "id": "abcdefghi", "function": function}
            messages.append(Message("assistant", "", tool_calls=(call,)))
            messages.append(Message("tool", _text(rng), name="get_weather", tool_call_id="abcdefghi"))
        reasoning = _text(rng).strip() if kind == "reasoning" else None
        messages.append(Message("assistant", _text(rng), reasoning_content=reasoning))
    return Conversation(tuple(messages), f"{kind} {number}", tools=(TOOL,) if kind == "tools" else ())


def _conversations(kind: str) -> list[Conversation]:
    rng = random.Random(f"families {kind}")
    return [_conversation(rng, kind, number) for number in range(PER_KIND)]


# Why the rows of a kind are refused, and by which templates. Everything else must be learned.
NEEDS_BOS = {"llama", "trl:llama3"}  # written whether the tokenizer has one or not
ENDS_TWICE = {"trl:phi3", "trl:phi3_training", "trl:phi3_5", "trl:phi3_5_training"}  # <|end|>, and at the end eos_token
NEMOTRONS = ("nano", "super", "ultra", "5_lightning")
THINKS = "the template does not begin an answer with its own generation prompt"
NOT_WHOLE = "the template does not write an answer whole and close it with its end-of-turn token"
UNREASONED = "the template does not write reasoning"
NO_SYSTEM = {"trl:gemma", "trl:gemma_training"}
ROLES_ONLY = {  # raise an exception for a turn that is neither a user's nor an assistant's
    *("alpaca", "gemma", "gemma-3", "gemma-3n", "gemma2", "gemma3", "gemma3n", "llama", "mistral", "unsloth"),
    *("vicuna", "vicuna old", "vicuna_old", "trl:cohere", "trl:cohere2", "trl:cohere2_training", "trl:cohere_training"),
    *("trl:deepseekv3", "trl:gemma", "trl:gemma3", "trl:gemma3_training", "trl:gemma_training"),
}
NO_CALLS = {
    *("chatml", "gemma2_chatml", "gemma_chatml", "lfm-2", "lfm-2.5", "llama-3", "llama3", "phi-3", "phi-3.5", "phi-35"),
    *("phi-4", "starling", "yi-chat", "zephyr", "trl:lfm2", "trl:lfm2_training", "trl:llama3", "trl:llama3_training"),
    *("trl:phi3", "trl:phi3_5", "trl:phi3_5_training", "trl:phi3_training", "trl:qwen2_5_vl"),
    "trl:qwen2_5_vl_training",
}
ENDS_CALLS_OTHERWISE = {  # with another token than answers, or with none
    *("gemma-4", "gemma4", "gpt-oss", "gptoss", "trl:diffusion_gemma", "trl:diffusion_gemma_training", "trl:gemma4"),
    *("trl:gemma4_v3", "trl:gemma4_v4", "trl:gemma4_v5", "trl:glm4moe_training", "trl:gptoss", "trl:gptoss_training"),
}
# Call Python-like text with quotes of their own, so that some arguments are not found again as they are.
REQUOTES = {"trl:lfm2_2_5_vl", "trl:lfm2_v2", "trl:lfm2_v2_training"}
# Write `reasoning_content`. The others would lose it, so the row is refused.
REASONS = {
    *("qwen-3", "qwen3", "qwen3-instruct", "qwen3-thinking", "trl:diffusion_gemma", "trl:diffusion_gemma_training"),
    *("trl:gemma4_v5", "trl:glm4moe_training", "trl:lfm2_2_5_v2", "trl:lfm2_2_5_vl", "trl:muse_glimmer", "plain"),
    "trl:muse_glimmer_training",
    *(f"trl:nemotron_3_{size}{kind}" for size in NEMOTRONS for kind in ("", "_training")),
    *(f"trl:qwen3{kind}{end}" for kind in ("", "_5_think", "_6", "_8") for end in ("", "_training")),
}


def _refusals(name: str, kind: str, own_end: bool) -> set[str]:
    """The reasons for which rows of `kind` may be refused; `own_end`: the tokenizer has the template's end token."""
    if kind == "reasoning":
        opened = name in REFUSED or name.startswith("trl:qwen3_5_nothink")
        return set() if name in REASONS else {THINKS if opened else UNREASONED}
    reasons = {THINKS} if name in REFUSED else set()
    if kind == "system" and name in NO_SYSTEM:
        reasons.add("the chat template refuses the messages")
    if kind == "tools" and name in ROLES_ONLY:
        reasons = {"the chat template refuses the messages"}
    if kind == "tools" and name in NO_CALLS | REQUOTES:
        reasons.add("the template does not write tool calls")
    if kind == "tools" and name.startswith("trl:deepseek_r1"):
        reasons.add("the template does not write the tools")
    if (kind == "tools" and name in ENDS_CALLS_OTHERWISE) or (kind != "tools" and not own_end):
        reasons.add(NOT_WHOLE)
    return reasons


@pytest.fixture(scope="module")
def tokenizers(qwen_tokenizer: Path, llama_tokenizer: Path) -> dict[str, tuple[Path, Tokenizer]]:
    return {
        "qwen": (qwen_tokenizer, Tokenizer.from_file(str(qwen_tokenizer / "tokenizer.json"))),
        "llama": (llama_tokenizer, Tokenizer.from_file(str(llama_tokenizer / "tokenizer.json"))),
        "chameleon": (qwen_tokenizer, make_chameleon(qwen_tokenizer)),
    }


def _load(name: str, kind: str, tokenizers: dict[str, tuple[Path, Tokenizer]]) -> ChatTokenizer:
    folder, backend = tokenizers[kind]
    tokenizer = ChatTokenizer(folder, backend, SPECIALS[kind], named_template(name))
    tokenizer.check_template(name)
    return tokenizer


@pytest.mark.parametrize("which", SPECIALS)
@pytest.mark.parametrize("name", ALL)
def test_every_turn_is_learned_exactly_or_the_row_is_refused_for_a_known_reason(
    name: str, which: str, tokenizers: dict[str, tuple[Path, Tokenizer]]
) -> None:
    if name in UNLOADABLE:
        with pytest.raises(ModelError, match=r"closes an assistant turn with|can't write|does not write an assistant"):
            _load(name, which, tokenizers)
        return
    end = _load(name, "chameleon", tokenizers).end_of_turn
    own_end = end == "</s>" or tokenizers[which][1].token_to_id(end) is not None
    if (not own_end and name not in ENDS_TWICE) or (which == "qwen" and name in NEEDS_BOS):
        with pytest.raises(ModelError, match=r"could not stop|'bos_token' is undefined"):
            _load(name, which, tokenizers)
        return
    tokenizer = _load(name, which, tokenizers)
    renderer = Renderer(tokenizer, max_length=9999)
    for kind in KINDS:
        allowed, met = _refusals(name, kind, own_end), set()
        for rendered in renderer.render_all(_conversations(kind)):
            met |= {drop.reason for drop in rendered.dropped}
            if not rendered.dropped:
                texts = [text for example in rendered.examples for text in learned_texts(tokenizer, example)]
                assert texts == list(_expected(name, tokenizer, rendered, texts, nfc=which != "llama"))
        assert met == allowed


def _expected(name: str, tokenizer: ChatTokenizer, rendered: Rendered, texts: list[str], *, nfc: bool) -> Iterator[str]:
    """What each turn's learned text must be: its content between what the template writes around it, or its calls."""
    messages = rendered.conversation.messages
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    assert len(texts) == len(answers)
    for index, text in zip(answers, texts, strict=True):
        if messages[index].tool_calls or messages[index].reasoning_content:
            yield _added(tokenizer, rendered.conversation, index, nfc=nfc)
            continue
        content, before, after = messages[index].content, opening_of(name), CLOSINGS.get(name, "")
        whole = before + content + after in tokenizer.render(rendered.conversation.as_dicts()[: index + 1])
        parts = (content,) if whole else (content.strip(), content.lstrip("\n"))
        wanted = [before + _normal(part, nfc) + after + tokenizer.end_of_turn for part in parts]
        yield text if text in wanted else wanted[0]


def _added(tokenizer: ChatTokenizer, conversation: Conversation, index: int, *, nfc: bool) -> str:
    """What the template itself adds to the prompt for a turn of calls or reasoning, to the end token that closes it."""
    messages, tools = conversation.as_dicts(), conversation.tools
    prompt = tokenizer.render(messages[:index], tools=tools, add_generation_prompt=True)
    whole = tokenizer.render(messages[: index + 1], tools=tools)
    assert whole.startswith(prompt)
    written, end, _ = whole[len(prompt) :].rpartition(tokenizer.end_of_turn)
    message = conversation.messages[index]
    assert (message.reasoning_content or "get_weather") in written
    return _normal(written, nfc) + end


def _normal(text: str, nfc: bool) -> str:
    """Qwen's tokenizer composes accents before it does anything else."""
    return unicodedata.normalize("NFC", text) if nfc else text
