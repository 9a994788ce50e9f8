"""Row -> conversation -> row gives the same row: nothing a format reads is lost on the way."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastft.data.formats import FORMATS, Kind, choose_format, load_format
from fastft.data.sources import Row

COUNT = 400
ALL: tuple[Kind, ...] = ("conversation", "preference", "unpaired", "prompt")

# Letters of several scripts, white space, what JSON escapes, and the marks that other formats are known by.
PIECES = [
    *"aZ9 \n\t\"'\\{}[]<>:,.é",
    "ß",
    "漢字",
    "हिन्दी",
    "עברית",
    "👩‍👩‍👧",
    "e\u0301",
    "\u00a0",
    "\u200b",
    "\U0001f600",
    "Human:",
    '"role"',
    "[1]",
    "null",
    "\r\n",
    "</s>",
]

Row_ = dict[str, Any]


class Maker:
    """Random rows of every format, canonically spelled; the same seed makes the same rows."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def chance(self, share: float = 0.5) -> bool:
        return self.rng.random() < share

    def text(self, *, filled: bool = True) -> str:
        """Begins with a letter where it must be filled: blank answers and prompts are refused."""
        pieces = "".join(self.rng.choice(PIECES) for _ in range(self.rng.randrange(12)))
        return self.rng.choice("xyé漢") + pieces if filled else pieces

    def value(self, depth: int = 2) -> Any:
        kinds = [self.text, lambda: self.rng.randrange(-9, 9), lambda: self.rng.random(), lambda: self.chance()]
        kinds += [lambda: None, lambda: [self.value(depth - 1)], lambda: self.arguments(depth - 1)]
        return self.rng.choice(kinds if depth else kinds[:4])()

    def arguments(self, depth: int = 2) -> Row_:
        return {self.text(): self.value(depth) for _ in range(self.rng.randrange(3))}

    def schema(self) -> Row_:
        return {"name": self.text(), "description": self.text(), "parameters": {"type": "object", "p": self.value()}}

    def tools(self, *, bare: bool) -> list[Row_]:
        schemas = [self.schema() for _ in range(self.rng.randrange(1, 3))]
        return schemas if bare else [{"type": "function", "function": schema} for schema in schemas]

    def call(self) -> Row_:
        call = {"type": "function", "function": {"name": self.text(), "arguments": self.arguments()}}
        return {"id": self.text(), **call} if self.chance() else call

    def weight(self) -> Row_:
        key = self.rng.choice(["weight", "train", "loss", "trainable"])
        return {key: self.rng.choice([True, False, 0, 1])} if self.chance(0.3) else {}

    def assistant(self) -> Row_:
        message: Row_ = {"role": "assistant", "content": self.text()}
        if self.chance(0.3):
            message["tool_calls"] = [self.call() for _ in range(self.rng.randrange(1, 3))]
        if self.chance(0.3):
            message["reasoning_content"] = self.text()
        return message | self.weight()

    def asked(self) -> Row_:
        if self.chance(0.2):
            return {"role": "tool", "content": self.text(), "name": self.text(), "tool_call_id": self.text()}
        return {"role": "user", "content": self.text(), **({"name": self.text()} if self.chance(0.2) else {})}

    def chat(self) -> list[Row_]:
        """Ends with an answer."""
        begun = [{"role": "system", "content": self.text()}] if self.chance(0.3) else []
        pairs = [[self.asked(), self.assistant()] for _ in range(self.rng.randrange(1, 4))]
        return [*begun, *(message for pair in pairs for message in pair)]

    def turns(self) -> list[Row_]:
        """As `chat`, in ShareGPT."""
        turns: list[Row_] = []
        for _ in range(self.rng.randrange(1, 4)):
            turns.append({"from": "human", "value": self.text()} | self.weight())
            if self.chance(0.3):
                calls = [{"name": self.text(), "arguments": self.arguments()} for _ in range(self.rng.randrange(1, 3))]
                called = json.dumps(calls if len(calls) > 1 else calls[0], ensure_ascii=False)
                turns.append({"from": "function_call", "value": called} | self.weight())
                turns.append({"from": "observation", "value": self.text()})
            turns.append({"from": "gpt", "value": self.text()} | self.weight())
        return turns

    def shared(self, row: Row_, *, system: bool) -> Row_:
        """`row` with, sometimes, the columns that every chat format has."""
        if system and self.chance(0.3):
            row["system"] = self.text()
        if self.chance(0.3):
            bare = self.chance()
            tools = self.tools(bare=bare)
            row["tools"] = json.dumps(tools, ensure_ascii=False) if self.chance() else tools
        for column in ("system", "tools"):
            if column not in row and self.chance(0.2):
                row[column] = self.rng.choice([None, "", []] if column == "tools" else [None, ""])
        return row

    def question(self) -> Row_:
        row: Row_ = {"instruction": self.text()}
        if self.chance():
            row["input"] = self.text(filled=False)
        if self.chance():
            row["history"] = [[self.text(filled=False), self.text(filled=False)] for _ in range(self.rng.randrange(3))]
        return row

    # Rows of the formats

    def messages(self) -> Row_:
        chat = self.chat()
        shaped: Any = [chat] if self.chance(0.1) else json.dumps(chat, ensure_ascii=False) if self.chance(0.1) else chat
        return self.shared({"messages": shaped}, system=chat[0]["role"] != "system")

    def sharegpt(self) -> Row_:
        turns: Any = self.turns()
        if self.chance(0.3):
            keys = self.rng.choice([("role", "value"), ("speaker", "text"), ("from", "content")])
            renamed = {"from": keys[0], "value": keys[1]}
            turns = [{renamed.get(key, key): value for key, value in turn.items()} for turn in turns]
        if self.chance(0.1):
            turns = [turns]
        return self.shared({"conversations": turns}, system=True)

    def alpaca(self) -> Row_:
        return self.shared(self.question() | {"output": self.text(filled=False)}, system=True)

    def prompt_completion(self) -> Row_:
        if self.chance():
            return self.shared({"prompt": self.text(), "completion": self.text()}, system=True)
        *prompt, answer = self.chat()
        return self.shared({"prompt": prompt, "completion": [answer]}, system=prompt[0]["role"] != "system")

    def preference(self) -> Row_:
        shape = self.rng.choice([self._pair_of_texts, self._pair_of_lists, self._whole, self._sharegpt, self._hh])
        row, system = shape()
        return self.shared(row, system=system)

    def _pair_of_texts(self) -> tuple[Row_, bool]:
        prompt = {"prompt": self.text()} if self.chance() else self.question()
        return prompt | {"chosen": self.text() + "1", "rejected": self.text() + "2"}, True

    def _answers(self) -> list[list[Row_]]:
        """Two, that differ in their first message."""
        return [[self.assistant() | {"content": self.text() + end}] for end in "12"]

    def _pair_of_lists(self) -> tuple[Row_, bool]:
        prompt = self.chat()[:-1]
        chosen, rejected = self._answers()
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}, prompt[0]["role"] != "system"

    def _whole(self) -> tuple[Row_, bool]:
        prompt = self.chat()[:-1]
        chosen, rejected = ([*prompt, *answer] for answer in self._answers())
        row: Row_ = {"chosen": chosen, "rejected": rejected}
        if self.chance(0.3):
            row |= {"messages": chosen}
        return row, prompt[0]["role"] != "system"

    def _sharegpt(self) -> tuple[Row_, bool]:
        turns = [turn for turn in self.turns() if turn["from"] == "human"]
        answers = [{"from": "gpt", "value": self.text() + end} for end in "12"]
        chosen, rejected = answers if self.chance() else ([answer] for answer in answers)
        return {"conversations": turns, "chosen": chosen, "rejected": rejected}, True

    def _hh(self) -> tuple[Row_, bool]:
        begun = "".join(f"\n\nHuman: {self._line()}\n\nAssistant: {self._line()}" for _ in range(self.rng.randrange(2)))
        begun += f"\n\nHuman: {self._line()}\n\nAssistant: "
        return {"chosen": f"{begun}{self._line()}1", "rejected": f"{begun}{self._line()}2"}, True

    def _line(self) -> str:
        """A text without the marks of a transcript's turns."""
        return self.text().replace("\n", " ")

    def unpaired(self) -> Row_:
        label = self.rng.choice([True, False, 0, 1, "true", "False"])
        if self.chance(0.3):
            return self.shared({"conversations": self.turns(), "label": label}, system=True)
        if self.chance():
            return self.shared({"prompt": self.text(), "completion": self.text(), "label": label}, system=True)
        chat = self.chat()
        return self.shared({"messages": chat, "label": label}, system=chat[0]["role"] != "system")

    def prompt_only(self) -> Row_:
        chat = self.chat()[:-1]
        prompt = self.text() if self.chance() else chat
        more = {"answer": self.value(), "id": 7} if self.chance() else {}
        return self.shared({"prompt": prompt, **more}, system=chat[0]["role"] != "system")

    def raw(self) -> Row_:
        return {"text": self.text(filled=False)}


MAKERS: dict[str, Callable[[Maker], Row_]] = {
    "messages": Maker.messages,
    "sharegpt": Maker.sharegpt,
    "alpaca": Maker.alpaca,
    "prompt_completion": Maker.prompt_completion,
    "text": Maker.raw,
    "preference": Maker.preference,
    "unpaired_preference": Maker.unpaired,
    "prompt_only": Maker.prompt_only,
}


def test_every_format_is_tested() -> None:
    assert set(MAKERS) == set(FORMATS)


@pytest.mark.parametrize("name", MAKERS)
def test_random_rows_are_the_same_after_the_round_trip(name: str) -> None:
    maker, chosen = Maker(sum(map(ord, name))), load_format(name)
    for number in range(COUNT):
        row = MAKERS[name](maker)
        before = json.dumps(row)
        conversation = chosen.convert(row, f"random row {number}")
        written = chosen.to_row(conversation)
        assert written == row
        assert json.dumps(row) == before  # converting changed nothing in place
        assert chosen.convert(written, conversation.place) == conversation
        assert choose_format([Row(row, conversation.place)], "auto", "x", kinds=ALL) == name


@pytest.mark.parametrize("name", MAKERS)
def test_conversations_whose_spelling_is_unknown_are_written_in_the_usual_one(name: str) -> None:
    maker, chosen = Maker(5), load_format(name)
    for _ in range(COUNT // 4):
        conversation = chosen.convert(MAKERS[name](maker), "r")
        written = chosen.to_row(replace(conversation, origin=None))
        assert chosen.matches(written)
        assert chosen.convert(written, "r") == conversation


@pytest.mark.parametrize("name", ["messages", "sharegpt"])
def test_chats_of_every_format_can_be_written_as_messages_and_sharegpt(name: str) -> None:
    maker, chosen = Maker(6), load_format(name)
    for other in ("messages", "sharegpt", "alpaca", "prompt_completion"):
        for _ in range(COUNT // 8):
            conversation = replace(load_format(other).convert(MAKERS[other](maker), "r"), origin=None)
            assert chosen.convert(chosen.to_row(conversation), "r") == conversation


def shared_rows(shared: Path, file: str) -> list[Row_]:
    text = (shared / "data" / file).read_text()
    return json.loads(text) if file.endswith(".json") else [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("file", "name", "count"),
    [
        ("alpaca_en_demo.json", "alpaca", 999),
        ("glaive_toolcall_en_demo.json", "sharegpt", 300),
        ("c4_demo.jsonl", "text", 300),
        ("dpo_en_demo.json", "preference", 299),
        ("kto_en_demo.json", "unpaired_preference", 300),
    ],
)
def test_public_sets_keep_every_field(shared: Path, file: str, name: str, count: int) -> None:
    """Exactly, in these sets: also their tools and calls, which are JSON text."""
    rows, chosen = shared_rows(shared, file), load_format(name)
    assert choose_format([Row(row, "r") for row in rows], "auto", file, kinds=ALL) == name
    assert len(rows) == count
    for number, row in enumerate(rows, 1):
        assert chosen.to_row(chosen.convert(row, f"{file} row {number}")) == row
