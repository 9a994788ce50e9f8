"""Unsloth's templates without Unsloth, and right labels for every template family Unsloth and TRL ship."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from fastft.data.conversation import IGNORE, Conversation, Message
from fastft.data.render import Renderer
from fastft.data.templates import find_template, unsloth_tables, unsloth_template
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import ModelError

_TRL = importlib.util.find_spec("trl")
assert _TRL is not None
assert _TRL.origin is not None
TRL_TEMPLATES = {path.name: path for path in sorted((Path(_TRL.origin).parent / "chat_templates").glob("*.jinja"))}
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
CLOSINGS = {"unsloth llama": " "}
OPENS = {
    **{f"unsloth {name}": "vicuna" for name in ("vicuna", "vicuna_old", "vicuna old")},
    **{f"unsloth {name}": "qwen3" for name in ("qwen3", "qwen-3")},
    **{f"unsloth {name}": "gptoss" for name in ("gptoss", "gpt-oss")},
    "unsloth starling": "starling",
    "unsloth llama": "vicuna",
    "unsloth qwen3-thinking": "thinking",
    **{f"trl {name}.jinja": "qwen3" for name in ("qwen3", "qwen3_training")},
    **{f"trl {name}.jinja": "gptoss" for name in ("gptoss", "gptoss_training")},
    **{f"trl {name}.jinja": "muse" for name in ("muse_glimmer", "muse_glimmer_training")},
    **{
        f"trl {name}{kind}.jinja": "thinking"
        for name in ("qwen3_5_think", "qwen3_6", "qwen3_8")
        for kind in ("", "_training")
    },
    "trl glm4moe_training.jinja": "glm",
}
NOT_ITS_PROMPT = "the template does not begin an answer with its own generation prompt"
# Templates whose generation prompt opens a reasoning block that an answer without reasoning does not have.
REFUSED = {
    *(f"unsloth {name}" for name in ("gemma-4-thinking", "gemma4-thinking")),
    *(
        f"trl {name}{kind}.jinja"
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
    f"trl {name}.jinja"
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
ALL = [*(f"unsloth {name}" for name in UNSLOTH_TEMPLATES), *(f"trl {name}" for name in TRL_TEMPLATES)]
ANSWERS = ("one answer", "second answer: 42\n\n- ok 👋🏽")
CHAT = Conversation(
    (
        Message("user", "one question"),
        Message("assistant", ANSWERS[0]),
        Message("user", "two?"),
        Message("assistant", ANSWERS[1]),
    ),
    "row 1",
)


@pytest.fixture(scope="session")
def chameleon(qwen_tokenizer: Path) -> Tokenizer:
    """Qwen's tokenizer with the control tokens of every family as special tokens."""
    backend = Tokenizer.from_file(str(qwen_tokenizer / "tokenizer.json"))
    sources = [*unsloth_tables()[0].values(), *(path.read_text() for path in TRL_TEMPLATES.values())]
    tokens = {
        token for source in sources for token in re.findall(r"<[|｜][^<>\s'\"{}]{1,40}[|｜]>|<\w+_of_\w+>", source)
    }
    tokens |= {"<bos>", "</s>", "<|turn>", "<turn|>", "[/INST]"}
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in sorted(tokens)])
    return backend


def _load(name: str, chameleon: Tokenizer, folder: Path) -> ChatTokenizer:
    origin, _, template = name.partition(" ")
    source = unsloth_template(template) if origin == "unsloth" else TRL_TEMPLATES[template].read_text()
    tokenizer = ChatTokenizer(folder, chameleon, {"bos_token": "<bos>", "eos_token": "</s>"}, source)
    tokenizer.check_template(name)
    return tokenizer


@pytest.mark.parametrize("name", ALL)
def test_every_familys_answers_are_learned_exactly(name: str, chameleon: Tokenizer, qwen_tokenizer: Path) -> None:
    if name in UNLOADABLE:
        with pytest.raises(ModelError):
            _load(name, chameleon, qwen_tokenizer)
        return
    tokenizer = _load(name, chameleon, qwen_tokenizer)
    rendered = Renderer(tokenizer, max_length=4096).render(CHAT)
    if name in REFUSED:
        assert rendered.examples == ()
        assert {dropped.reason for dropped in rendered.dropped} == {NOT_ITS_PROMPT}
        return
    opening, closing = OPENINGS[OPENS[name]] if name in OPENS else "", CLOSINGS.get(name, "")
    assert rendered.dropped == ()
    learned = []
    for example in rendered.examples:
        runs = groupby(zip(example.input_ids, example.labels, strict=True), key=lambda pair: pair[1] != IGNORE)
        learned += [tokenizer.decode([token for token, _ in run]) for wanted, run in runs if wanted]
    assert learned == [opening + answer + closing + tokenizer.end_of_turn for answer in ANSWERS]
    ends = (1, 3) if rendered.split else (1,)
    for example, end in zip(rendered.examples, ends, strict=True):
        fed = tokenizer.prompt_ids(CHAT.as_dicts()[:end])
        assert example.input_ids[: len(fed)] == fed


def test_names_and_files(qwen_tokenizer: Path, tmp_path: Path) -> None:
    own = (qwen_tokenizer / "chat_template.jinja").read_text()
    assert find_template(qwen_tokenizer, {}, None) == own
    assert find_template(qwen_tokenizer, {}, str(qwen_tokenizer / "chat_template.jinja")) == own
    assert "You are Qwen" in unsloth_template("qwen2.5")
    assert "{system_message}" not in "".join(unsloth_template(name) for name in ("unsloth", "alpaca", "llama-3.1"))
    with pytest.raises(ModelError, match=r"neither a \.jinja file nor a name in Unsloth") as caught:
        find_template(qwen_tokenizer, {}, "qwen-2")
    assert "qwen-25" in caught.value.hint
    with pytest.raises(ModelError, match="cannot read"):
        find_template(qwen_tokenizer, {}, str(tmp_path / "none.jinja"))
    with pytest.raises(ModelError, match="has no chat template"):
        find_template(tmp_path, {}, None)
    listed = {"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}
    assert find_template(tmp_path, listed, None) == "d"


@pytest.mark.slow
def test_the_tables_are_unsloths_own() -> None:
    """The source is read without importing; this imports it and compares, filled in by Unsloth's own function."""
    program = (
        "import json, unsloth\n"
        "from unsloth import chat_templates as c\n"
        "print('TABLES' + json.dumps({n: c._change_system_message(e[0], n)[0] for n, e in c.CHAT_TEMPLATES.items()}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    table = next(line for line in done.stdout.splitlines() if line.startswith("TABLES"))
    assert {name: unsloth_template(name) for name in UNSLOTH_TEMPLATES} == json.loads(table.removeprefix("TABLES"))
