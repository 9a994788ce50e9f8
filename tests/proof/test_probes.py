"""What exports are asked: tools only where the template writes them, and nothing that leaves no room for an answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastft.data.tokenizer import ChatTokenizer
from fastft.proof.probes import MAX_TOKENS, load_probes

PLAIN = {"plain", "system turn", "several turns", "unicode", "digits", "code", "white space", "quotes"}


def asked(folder: Path, positions: int) -> dict[str, str]:
    """Name of each built-in probe: the text of its prompt."""
    tokenizer = ChatTokenizer.load(folder)
    probes = load_probes(None, tokenizer, 50, positions)
    return {probe.place.removeprefix("built-in (").removesuffix(")"): tokenizer.decode(probe.prompt_ids)
            for probe in probes}  # fmt: skip


@pytest.mark.parametrize("name", ["qwen_tokenizer", "llama_tokenizer"])
def test_a_template_that_writes_tools_is_asked_with_tools(name: str, request: pytest.FixtureRequest) -> None:
    found = asked(request.getfixturevalue(name), 32_768)
    assert found.keys() == PLAIN | {"tools", "a tool's result"}
    assert "get_weather" in found["tools"]
    assert "5 km/h" in found["a tool's result"]


def test_a_template_without_tools_is_not(tiny: Path) -> None:
    assert asked(tiny, 32_768).keys() == PLAIN


def test_prompts_that_leave_no_room_for_an_answer_are_left_out(qwen_tokenizer: Path) -> None:
    tokenizer = ChatTokenizer.load(qwen_tokenizer)
    probes = load_probes(None, tokenizer, 50, 100)
    assert probes
    assert all(len(probe.prompt_ids) <= 100 - 32 for probe in probes)
    assert len(load_probes(None, tokenizer, 50, MAX_TOKENS * 4)) == len(PLAIN) + 2


def test_held_out_texts_and_bare_prompts_are_asked_too(tiny: Path, tmp_path: Path) -> None:
    tokenizer = ChatTokenizer.load(tiny)
    path = tmp_path / "heldout.jsonl"
    text, asked = "Ana lives in Larkham and has a dog.", {"role": "user", "content": "Where does Ana live?"}
    path.write_text("".join(json.dumps(row) + "\n" for row in ({"text": text}, {"messages": [asked]})))
    whole, prompt, *_ = load_probes(path, tokenizer, 50, 1024)
    ids = [*tokenizer.document_start, *tokenizer.encode(text)]
    assert (whole.whole_ids, whole.prompt_ids, whole.messages, whole.answer) == (ids, ids[: len(ids) // 2], [], None)
    assert (prompt.whole_ids, prompt.prompt_ids) == (None, tokenizer.prompt_ids([asked]))
