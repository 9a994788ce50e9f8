"""What the models are asked: the run's held-out conversations, and prompts on which exports are known to break."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fastft.data.tokenizer import TEMPLATE_DATE, ChatTokenizer
from fastft.errors import ModelError
from fastft.run_files import read_heldout

MAX_TOKENS = 1024  # of one prompt with its answer; longer conversations are left out, to bound time and memory
_ROOM_TO_ANSWER = 32  # tokens
_OF_A_TEXT = 256  # tokens of a held-out text
_SYSTEM = {"role": "system", "content": "You answer in one short sentence."}


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


BUILT_IN: dict[str, list[dict[str, Any]]] = {
    "plain": [_user("Hello! Who are you?")],
    "system turn": [_SYSTEM, _user("What is the capital of France?")],
    "several turns": [
        _user("My name is Ada."),
        {"role": "assistant", "content": "Nice to meet you, Ada."},
        _user("What is my name?"),
    ],
    "unicode": [_user("Grüße aus Köln — 你好，世界! Привет. नमस्ते 👩‍👩‍👧 é vs é ﬁ")],
    "digits": [_user("1234567 + 89 = ? 3.14159, 1,000,000 and 0x1F, 2026-11-21")],
    "code": [_user("def f(x):\n\treturn  x**2   # a\n\n\nprint(f(3))\r\n{'a': [1, 2]}")],
    "white space": [_user("  two spaces,\ttab,\n\n\nthree lines  and   more")],
    "quotes": [_user("\"It's\" isn't 'we'll' <b>&amp;</b> \\n {{ x }} {% y %} I'M you'D")],
}

_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Today\'s weather in a city, e.g. "Köln".',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city's name"},
                "days": {"type": "integer", "minimum": 1},
            },
            "required": ["city"],
        },
    },
}
_CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}}
_TOOL_NAME = "get_weather"
_WITH_TOOLS: dict[str, list[dict[str, Any]]] = {
    "tools": [_user("Will it rain in Köln?")],
    "a tool's result": [
        _user("Will it rain in Köln?"),
        {"role": "assistant", "content": "", "tool_calls": [_CALL]},
        {"role": "tool", "name": "get_weather", "content": '{"rain": "no", "wind": "5 km/h"}'},
    ],
}


@dataclass(frozen=True, slots=True)
class Probe:
    """A conversation that ends with the user's turn, the prompt the trained tokenizer makes of it, and the answer.

    `whole_ids` is the prompt with the held-out answer and its end-of-turn token; without an answer it is None. A
    held-out text has no `messages` and no `answer`: its first half is the prompt, `whole_ids` all of it.
    """

    place: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    prompt_ids: list[int]
    whole_ids: list[int] | None
    answer: str | None


def load_probes(heldout: Path | None, tokenizer: ChatTokenizer, samples: int, positions: int) -> list[Probe]:
    """At most `samples` held-out conversations, then the built-in ones that the template can render.

    Those that leave a model of so many `positions` no room for an answer are left out, too.
    """
    probes = [*_held_out(heldout, tokenizer, samples), *_built_in(tokenizer)]
    room = min(MAX_TOKENS, positions - _ROOM_TO_ANSWER)
    return [probe for probe in probes if len(probe.whole_ids or probe.prompt_ids) <= room]


def prompt_ids_now(probe: Probe, tokenizer: ChatTokenizer) -> list[int]:
    """The prompt with today's date, where a template prints it: what llama.cpp, which uses the clock, must make."""
    return tokenizer.prompt_ids(probe.messages, tools=probe.tools, now=datetime.now())


def _held_out(path: Path | None, tokenizer: ChatTokenizer, samples: int) -> Iterator[Probe]:
    taken = 0
    for number, row in enumerate(read_heldout(path), 1):
        if taken < samples and (text := row.get("text")):
            taken += 1
            yield _text_probe(f"held-out {number}", text, tokenizer)
        messages = row.get("messages")
        if not messages:
            continue
        last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=0)
        if taken >= samples or not (last > 0 or messages[-1]["role"] == "user"):
            continue
        taken += 1  # rows of methods that write the answers themselves are prompts alone
        prompt, answer = (messages[:last], messages[last]) if last > 0 else (messages, None)
        yield _probe(f"held-out {number}", prompt, answer, row.get("tools"), tokenizer)


def _text_probe(place: str, text: str, tokenizer: ChatTokenizer) -> Probe:
    """The start of a document, framed as one by its beginning, and how it goes on."""
    start, ids = tokenizer.document_start, tokenizer.encode(text)
    ids = (ids if ids[: len(start)] == start else [*start, *ids])[:_OF_A_TEXT]
    return Probe(place, [], None, ids[: max(1, len(ids) // 2)], ids, None)


def _built_in(tokenizer: ChatTokenizer) -> Iterator[Probe]:
    tools = [_TOOL]
    asked = [*((name, turns, None) for name, turns in BUILT_IN.items())]
    asked += [(name, turns, tools) for name, turns in _WITH_TOOLS.items() if _writes(tools, turns, tokenizer)]
    for name, messages, given in asked:
        try:
            yield _probe(f"built-in ({name})", messages, None, given, tokenizer)
        except ModelError:
            continue  # a template may refuse a system turn, as Gemma's does; training would have been refused too


def _writes(tools: list[dict[str, Any]], messages: list[dict[str, Any]], tokenizer: ChatTokenizer) -> bool:
    """Whether the template says what tools there are. Where it doesn't, llama.cpp adds words of its own for them."""
    try:
        return _TOOL_NAME in tokenizer.render(messages[:1], tools=tools, add_generation_prompt=True)
    except ModelError:
        return False


def _probe(
    place: str,
    messages: list[dict[str, Any]],
    answer: dict[str, Any] | None,
    tools: list[dict[str, Any]] | None,
    tokenizer: ChatTokenizer,
) -> Probe:
    prompt_ids = tokenizer.prompt_ids(messages, tools=tools, now=TEMPLATE_DATE)
    if answer is None:
        return Probe(place, messages, tools, prompt_ids, None, None)
    whole = tokenizer.encode(tokenizer.render([*messages, answer], tools=tools))
    ending = len(whole) - whole[::-1].index(tokenizer.end_of_turn_id)
    return Probe(place, messages, tools, prompt_ids, whole[:ending], answer["content"])
