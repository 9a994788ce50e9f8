"""Where the answers lie in a rendering: tools, templates that leave things out, templates that rewrite history."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from fastft.data.conversation import IGNORE, Conversation, Example, Message
from fastft.data.formats import load_format
from fastft.data.render import Renderer
from fastft.data.tokenizer import ChatTokenizer
from tests.data.reading import read_rows

Chat = Callable[..., Conversation]
TOOL = {"type": "function", "function": {"name": "area", "description": "d", "parameters": {"type": "object"}}}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def learned(tokenizer: ChatTokenizer, examples: tuple[Example, ...]) -> Iterator[str]:
    for example in examples:
        pairs = zip(example.input_ids, example.labels, strict=True)
        for wanted, run in groupby(pairs, key=lambda pair: pair[1] != IGNORE):
            if wanted:
                yield tokenizer.decode([token for token, _ in run])


def with_template(tokenizer: ChatTokenizer, folder: Path, template: str) -> ChatTokenizer:
    path = folder / "template.jinja"
    path.write_text(template)
    return ChatTokenizer.load(tokenizer.folder, str(path))


TOOL_CHAT = Conversation(
    (
        Message("user", "How large?"),
        Message("assistant", "", tool_calls=(call("area", shape="quadrat", sides=[3, 4], deep={"é": 'ü "q"'}),)),
        Message("tool", '{"area": "12 m²"}'),
        Message("assistant", "12 m²."),
    ),
    "t.json row 1",
    tools=(TOOL,),
)


def test_tool_calls_are_learned_and_tool_answers_are_not(qwen: ChatTokenizer, llama: ChatTokenizer) -> None:
    arguments = '{"shape": "quadrat", "sides": [3, 4], "deep": {"é": "ü \\"q\\""}}'
    rendered = Renderer(qwen, max_length=999).render(TOOL_CHAT)
    written = '<tool_call>\n{"name": "area", "arguments": ' + arguments + "}\n</tool_call><|im_end|>"
    assert list(learned(qwen, rendered.examples)) == [written, "12 m².<|im_end|>"]

    rendered = Renderer(llama, max_length=999).render(TOOL_CHAT)
    written = '{"name": "area", "parameters": ' + arguments + "}<|eot_id|>"
    assert list(learned(llama, rendered.examples)) == [written, "12 m².<|eot_id|>"]
    assert '{"area": \\"' not in llama.decode(rendered.examples[0].input_ids)


def test_every_glaive_row_keeps_its_calls_tools_and_answers(tokenizer: ChatTokenizer, shared: Path) -> None:
    rows = read_rows(shared / "data" / "glaive_toolcall_en_demo.json")
    conversations = [load_format("sharegpt").convert(row.values, row.place) for row in rows]
    rendered = list(Renderer(tokenizer, max_length=100_000).render_all(conversations))
    assert len(rendered) == 300
    assert [r.dropped for r in rendered if r.dropped] == []
    for row, result in zip(rows, rendered, strict=True):
        turns = [turn for turn in row.values["conversations"] if turn["from"] in ("gpt", "function_call")]
        texts = list(learned(tokenizer, result.examples))
        assert len(texts) == len(turns)
        for turn, text in zip(turns, texts, strict=True):
            assert text.endswith(tokenizer.end_of_turn)
            body = text.removesuffix(tokenizer.end_of_turn)
            if turn["from"] == "gpt":
                assert body.strip() == turn["value"].strip()
            else:
                wanted = json.loads(turn["value"])
                found = json.loads(body.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
                assert found.get("arguments", found.get("parameters")) == wanted["arguments"]
                assert found["name"] == wanted["name"]
        whole = tokenizer.decode(result.examples[0].input_ids)
        for tool in json.loads(row.values["tools"]):
            assert json.dumps(tool["name"]) in whole
            assert tool["description"] in whole


def test_a_template_that_ignores_tools_refuses_the_row(qwen_tokenizer: Path, chat: Chat) -> None:
    chatml = ChatTokenizer.load(qwen_tokenizer, "chatml")
    rendered = Renderer(chatml, max_length=999).render(TOOL_CHAT)
    assert [d.reason for d in rendered.dropped] == ["the template does not write tool calls"]
    plain = Conversation(chat("user: a", "assistant: b").messages, "r", tools=(TOOL,))
    assert [(d.reason, d.detail) for d in Renderer(chatml, max_length=999).render(plain).dropped] == [
        ("the template does not write the tools", "area")
    ]


def test_a_template_refusing_the_messages_is_named(llama: ChatTokenizer) -> None:
    two = Conversation((Message("user", "a"), Message("assistant", "", tool_calls=(call("f"), call("g")))), "r")
    (dropped,) = Renderer(llama, max_length=999).render(two).dropped
    assert dropped.reason == "the chat template refuses the messages"
    assert "only supports single tool-calls" in dropped.detail


FORGETFUL = {
    "a system turn": (
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "the template leaves out the content of a system turn",
    ),
    "what is said in capitals": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content|lower if m.role == 'user' else m.content }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "the template leaves out the content of a user turn",
    ),
    "the case of answers": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content|lower if m.role == 'assistant' else m.content }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "the template does not write an answer whole and close it with its end-of-turn token",
    ),
    "that the answer is over": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{{ ' (end)' if m.role == 'assistant' }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "the template does not write an answer whole and close it with its end-of-turn token",
    ),
    "a system turn, and rewrites history": (
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
        "{{ '(now)' if loop.last and m.role == 'assistant' }}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "the template leaves out the content of a system turn",
    ),
    "its own prompt": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}",
        "the template does not begin an answer with its own generation prompt",
    ),
}


@pytest.mark.parametrize("what", FORGETFUL)
def test_templates_that_change_or_forget_are_refused(
    qwen: ChatTokenizer, tmp_path: Path, chat: Chat, what: str
) -> None:
    template, reason = FORGETFUL[what]
    tokenizer = with_template(qwen, tmp_path, template)
    rendered = Renderer(tokenizer, max_length=999).render(
        chat("system: S", "user: Why?", "assistant: So", "user: And?", "assistant: No")
    )
    assert rendered.examples == ()
    assert {d.reason for d in rendered.dropped} == {reason}


def test_an_answer_whose_history_is_dropped_is_left_out_alone(qwen: ChatTokenizer, tmp_path: Path, chat: Chat) -> None:
    """This template shows the model only the last question: right for the first answer, a loss for the second."""
    template = (
        "{% set shown = messages[-2:] if messages[-1].role == 'assistant' else messages[-1:] %}"
        "{% for m in shown %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = with_template(qwen, tmp_path, template)
    rendered = Renderer(tokenizer, max_length=999).render(
        chat("user: Q1", "assistant: A1", "user: Q2", "assistant: A2")
    )
    assert rendered.split
    assert list(learned(tokenizer, rendered.examples)) == ["A1<|im_end|>"]
    assert [(d.reason, d.detail) for d in rendered.dropped] == [
        ("the template leaves out the content of a user turn", "Q1")
    ]


def test_an_answer_the_template_does_not_mark_is_refused(qwen: ChatTokenizer, tmp_path: Path, chat: Chat) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and m.content != 'b' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    renderer = Renderer(with_template(qwen, tmp_path, template), max_length=999)
    assert len(renderer.render(chat("user: a", "assistant: c")).examples) == 1
    (dropped,) = renderer.render(chat("user: a", "assistant: b")).dropped
    assert dropped.reason == "the template does not mark the answer as generated"


def test_reasoning_stripped_from_history_gives_one_example_an_answer(qwen_tokenizer: Path) -> None:
    """Qwen3 shows the model its reasoning only in the turn it is writing, so training must do the same."""
    tokenizer = ChatTokenizer.load(qwen_tokenizer, "qwen3")
    messages = (
        Message("user", "1+1?"),
        Message("assistant", "2", reasoning_content="one and one"),
        Message("user", "2+2?"),
        Message("assistant", "4", reasoning_content="two and two"),
    )
    conversation = Conversation(messages, "r")
    rendered = Renderer(tokenizer, max_length=999).render(conversation)
    assert rendered.split
    assert list(learned(tokenizer, rendered.examples)) == [
        "<think>\none and one\n</think>\n\n2<|im_end|>",
        "<think>\ntwo and two\n</think>\n\n4<|im_end|>",
    ]
    second = tokenizer.decode(rendered.examples[1].input_ids)
    assert "one and one" not in second
    for example, count in zip(rendered.examples, (1, 3), strict=True):
        fed = tokenizer.prompt_ids(conversation.as_dicts()[:count])
        assert example.input_ids[: len(fed)] == fed


def test_generation_marks_choose_what_is_learned_within_a_turn(qwen: ChatTokenizer, tmp_path: Path, chat: Chat) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}[note] "
        "{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n{% else %}{{ m.content }}<|im_end|>\n{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = with_template(qwen, tmp_path, template)
    renderer = Renderer(tokenizer, max_length=999)
    rendered = renderer.render(chat("user: a", "assistant: b", "user: c", "assistant: d"))
    assert not rendered.split
    # " b" is one token, which the model writes after "[note]": it is learned although the mark is in its middle.
    assert list(learned(tokenizer, rendered.examples)) == [" b<|im_end|>", " d<|im_end|>"]
    alone = renderer.render(chat("user: a", "assistant: b"))
    assert (
        alone.examples[0].input_ids
        == tokenizer.encode(tokenizer.render(chat("user: a", "assistant: b").as_dicts()))[:-1]
    )
