"""Every template family of Unsloth and TRL, what each writes around an answer, and a tokenizer that knows them all."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from fastft.data.conversation import IGNORE, Example
from fastft.data.templates import named_template, trl_templates, unsloth_tables
from fastft.data.tokenizer import ChatTokenizer

UNSLOTH_TEMPLATES = sorted(unsloth_tables()[0])

# What a template itself writes at the start of an answer, after the prompt that inference feeds. It is part of what
# the model is to write, so it is learned.
OPENINGS = {
    "vicuna": " ",
    "starling": " ",
    "qwen3": "<think>\n\n</think>\n\n",
    "thinking": "\n</think>\n\n",
    "gptoss": "<|channel|>final<|message|>",
    "glm": "\n<think></think>\n",
    "muse": " to=user<|message|>",
}
CLOSINGS = {"llama": " "}
OPENS = {
    **dict.fromkeys(("vicuna", "vicuna_old", "vicuna old"), "vicuna"),
    **dict.fromkeys(("qwen3", "qwen-3"), "qwen3"),
    **dict.fromkeys(("gptoss", "gpt-oss"), "gptoss"),
    "starling": "starling",
    "llama": "vicuna",
    "qwen3-thinking": "thinking",
    **{f"trl:{name}": "qwen3" for name in ("qwen3", "qwen3_training")},
    **{f"trl:{name}": "gptoss" for name in ("gptoss", "gptoss_training")},
    **{f"trl:{name}": "muse" for name in ("muse_glimmer", "muse_glimmer_training")},
    **{
        f"trl:{name}{kind}": "thinking"
        for name in ("qwen3_5_think", "qwen3_6", "qwen3_8")
        for kind in ("", "_training")
    },
    "trl:glm4moe_training": "glm",
}
NOT_ITS_PROMPT = "the template does not begin an answer with its own generation prompt"
# Templates whose generation prompt opens a reasoning block that an answer without reasoning does not have.
REFUSED = {
    "gemma-4-thinking",
    "gemma4-thinking",
    *(
        f"trl:{name}{kind}"
        for name in (
            "deepseek_r1_distill",
            "deepseekv3",
            "nemotron_3_nano",
            "nemotron_3_super",
            "nemotron_3_ultra",
            "nemotron_3_5_lightning",
        )
        for kind in ("", "_training")
    ),
}
# No text model's template: contents must be lists of parts. GLM's own template closes no turn.
UNLOADABLE = {
    f"trl:{name}"
    for name in (
        "glm4moe",
        "idefics3",
        "idefics3_training",
        "llava_next",
        "llava_next_training",
        "smolvlm",
        "smolvlm_training",
    )
}
ALL = [*UNSLOTH_TEMPLATES, *(f"trl:{name}" for name in trl_templates()), "plain"]


def make_chameleon(qwen_tokenizer: Path) -> Tokenizer:
    """Qwen's tokenizer with the control tokens of every family as special tokens."""
    backend = Tokenizer.from_file(str(qwen_tokenizer / "tokenizer.json"))
    sources = [named_template(name) for name in ALL]
    tokens = {
        token for source in sources for token in re.findall(r"<[|｜][^<>\s'\"{}]{1,40}[|｜]>|<\w+_of_\w+>", source)
    }
    tokens |= {"<bos>", "</s>", "<|turn>", "<turn|>", "[/INST]"}
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in sorted(tokens)])
    return backend


def opening_of(name: str) -> str:
    return OPENINGS[OPENS[name]] if name in OPENS else ""


def learned_texts(tokenizer: ChatTokenizer, example: Example) -> list[str]:
    """The text of each run of supervised tokens."""
    runs = groupby(zip(example.input_ids, example.labels, strict=True), key=lambda pair: pair[1] != IGNORE)
    return [tokenizer.decode([token for token, _ in run]) for wanted, run in runs if wanted]
