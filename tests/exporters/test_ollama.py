from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from fastft.data.tokenizer import ChatTokenizer
from fastft.exporters.ollama import TurnFormat, turn_format

CONVERSATIONS = [
    [("user", "Hi")],
    [("user", "Hi"), ("assistant", "Hello {{ x }}"), ("user", "{% raw %}\n  two lines\n")],
    [("system", "Be kind."), ("user", "a"), ("assistant", "b"), ("user", "c")],
]


def as_messages(conversation: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in conversation]


def run_go_template(turns: TurnFormat, messages: list[dict[str, str]]) -> str:
    """What Ollama makes of it. The few constructs used mean the same in jinja, so jinja is the second opinion."""
    import jinja2

    if turns.default_system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": turns.default_system}, *messages]
    template = turns.go_template()
    for go, jinja in (
        (r"\{\{ range \.Messages \}\}", "{% for m in messages %}"),
        (r"\{\{ if not \.System \}\}(.*?)\{\{ end \}\}", r"{% if not system %}\1{% endif %}"),
        (r"\{\{ if eq \.Role \"(\w+)\" \}\}", r'{% if m.role == "\1" %}'),
        (r"\{\{ else if eq \.Role \"(\w+)\" \}\}", r'{% elif m.role == "\1" %}'),
        (r"\{\{ \.Content \}\}", "{{ m.content }}"),
        (r"\{\{ end \}\}\{\{ end \}\}", "{% endif %}{% endfor %}"),
    ):
        template = re.sub(go, jinja, template, flags=re.DOTALL)
    system = [message["content"] for message in messages if message["role"] == "system"]
    environment = jinja2.Environment(keep_trailing_newline=True)
    return environment.from_string(template).render(messages=messages, system="\n\n".join(system))


@pytest.mark.parametrize("fixture", ["tiny", "qwen_tokenizer", "llama_tokenizer"])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_the_go_template_gives_the_chat_templates_text(
    fixture: str, conversation: list[tuple[str, str]], request: pytest.FixtureRequest
) -> None:
    tokenizer = ChatTokenizer.load(request.getfixturevalue(fixture))
    turns = turn_format(tokenizer, adds_bos=False)
    assert turns is not None
    messages = [{**m, "content": m["content"].strip()} for m in as_messages(conversation)]
    assert run_go_template(turns, messages) == tokenizer.render(messages, add_generation_prompt=True)


def test_llama_cpp_adds_bos_so_the_template_does_not(llama_tokenizer: Path) -> None:
    tokenizer = ChatTokenizer.load(llama_tokenizer)
    turns = turn_format(tokenizer, adds_bos=True)
    assert turns is not None
    messages = as_messages(CONVERSATIONS[0])
    rendered = tokenizer.render(messages, add_generation_prompt=True)
    assert rendered.startswith("<|begin_of_text|>")
    assert "<|begin_of_text|>" + run_go_template(turns, messages) == rendered


def test_a_default_system_text_becomes_system(qwen_tokenizer: Path) -> None:
    turns = turn_format(ChatTokenizer.load(qwen_tokenizer), adds_bos=False)
    assert turns is not None
    assert turns.default_system == "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    assert turns.without_system == ""


@pytest.mark.parametrize(
    "template",
    [
        # the system text goes into the first user turn
        "{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] + '\\n\\n' %}"
        "{% set messages = messages[1:] %}"
        "{% else %}{% set s = '' %}{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{{ (s if loop.first else '') + m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        # the last user turn is marked
        "{% for m in messages %}<|im_start|>{{ m['role'] }}{{ '!' if loop.last and m['role'] == 'user' else '' }}\n"
        "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        # turns are numbered
        "{% for m in messages %}<|im_start|>{{ loop.index }}{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ],
)
def test_what_ollama_cannot_express_is_not_claimed(tiny: Path, template: str, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    assert turn_format(ChatTokenizer.load(folder), adds_bos=False) is None
