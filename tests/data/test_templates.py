"""Unsloth's templates without Unsloth, and right labels for every template family Unsloth and TRL ship."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from fastft.data.conversation import Conversation, Message
from fastft.data.render import Renderer
from fastft.data.templates import find_template, named_template, template_names, trl_templates
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import ModelError
from tests.data.families import (
    ALL,
    CLOSINGS,
    NOT_ITS_PROMPT,
    REFUSED,
    UNLOADABLE,
    UNSLOTH_TEMPLATES,
    learned_texts,
    make_chameleon,
    opening_of,
)

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
    return make_chameleon(qwen_tokenizer)


def _load(name: str, chameleon: Tokenizer, folder: Path) -> ChatTokenizer:
    tokenizer = ChatTokenizer(folder, chameleon, {"bos_token": "<bos>", "eos_token": "</s>"}, named_template(name))
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
    opening, closing = opening_of(name), CLOSINGS.get(name, "")
    assert rendered.dropped == ()
    learned = [text for example in rendered.examples for text in learned_texts(tokenizer, example)]
    assert learned == [opening + answer + closing + tokenizer.end_of_turn for answer in ANSWERS]
    ends = (1, 3) if rendered.split else (1,)
    for example, end in zip(rendered.examples, ends, strict=True):
        fed = tokenizer.prompt_ids(CHAT.as_dicts()[:end])
        assert example.input_ids[: len(fed)] == fed


def test_names_and_files(qwen_tokenizer: Path, tmp_path: Path) -> None:
    own = (qwen_tokenizer / "chat_template.jinja").read_text()
    assert find_template(qwen_tokenizer, {}, None) == own
    assert find_template(qwen_tokenizer, {}, str(qwen_tokenizer / "chat_template.jinja")) == own
    assert "You are Qwen" in named_template("qwen2.5")
    assert "{system_message}" not in "".join(named_template(name) for name in ("unsloth", "alpaca", "llama-3.1"))
    with pytest.raises(ModelError, match=r"neither a \.jinja file nor a template of Unsloth's or TRL's") as caught:
        find_template(qwen_tokenizer, {}, "qwen-2")
    assert "qwen-25" in caught.value.hint
    with pytest.raises(ModelError, match="cannot read"):
        find_template(qwen_tokenizer, {}, str(tmp_path / "none.jinja"))
    with pytest.raises(ModelError, match="has no chat template") as caught:
        find_template(tmp_path, {}, None)
    assert "data.chat_template: plain" in caught.value.hint
    listed = {"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}
    assert find_template(tmp_path, listed, None) == "d"


def test_every_name_is_known_and_trls_are_its_files() -> None:
    names = template_names()
    assert {*ALL, *trl_templates()} == set(names)
    assert len(trl_templates()) > 60
    assert all(named_template(name) for name in names)
    file = trl_templates()["qwen3_vl"]
    assert named_template("qwen3_vl") == named_template("trl:qwen3_vl") == file.read_text()
    assert named_template("qwen3") != named_template("trl:qwen3")  # Unsloth has one of that name
    assert "{% generation %}" in named_template("trl:qwen3_training")


PLAIN = """<bos>### System:
Be brief.

### User:
two?

### Assistant:
<think>
Even.
</think>

yes</s>

### Assistant:
<tool_call>
{"name": "look", "arguments": {"place": "Köln"}}
</tool_call></s>

### Tool:
20

### Assistant:
"""


def test_the_plain_template_letter_by_letter(chameleon: Tokenizer, qwen_tokenizer: Path) -> None:
    tokenizer = _load("plain", chameleon, qwen_tokenizer)
    call = {"type": "function", "function": {"name": "look", "arguments": {"place": "Köln"}}}
    messages = [
        Message("system", "Be brief."),
        Message("user", "two?"),
        Message("assistant", "yes", reasoning_content="Even."),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "20"),
    ]
    dicts = [message.as_dict() for message in messages]
    assert tokenizer.render(dicts, add_generation_prompt=True) == PLAIN
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    start = '<bos>### Tools:\n{"type": "function", "function": {"name": "look", "parameters": {}}}\n\n### System:\n'
    assert tokenizer.render(dicts, tools=[tool]).startswith(start)
    assert (tokenizer.end_of_turn, tokenizer.render(dicts).count("</s>")) == ("</s>", 2)
    without_end = ChatTokenizer(qwen_tokenizer, chameleon, {"bos_token": None}, named_template("plain"))
    with pytest.raises(ModelError, match="eos_token"):
        without_end.check_template("plain")


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
    assert {name: named_template(name) for name in UNSLOTH_TEMPLATES} == json.loads(table.removeprefix("TABLES"))
