"""Rows of every format with places spoiled, through all of the preparation: read, converted, rendered, counted."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.mutations import json_text, spoil_value

_ASKED = {"role": "user", "content": "What colour is snow?"}
_ANSWERED = {"role": "assistant", "content": "White."}
_PARAMETERS = {"type": "object", "properties": {"at": {"type": "string"}}}
_TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": _PARAMETERS}}
_CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": {"at": "snow"}}}
_PARTS = [{"type": "text", "text": "White"}, {"type": "text", "text": "."}]
_HI = {"from": "human", "value": "Hi"}
_FUNCTION_CALL = {"from": "function_call", "value": json.dumps({"name": "look", "arguments": {}})}
ROWS: dict[str, list[dict[str, Any]]] = {
    "conversation": [
        {"messages": [{"role": "system", "content": "Be short."}, _ASKED, _ANSWERED]},
        {
            "messages": [
                _ASKED,
                {"role": "assistant", "content": "", "tool_calls": [_CALL]},
                {"role": "tool", "name": "look", "tool_call_id": "1", "content": "white"},
                _ANSWERED,
            ],
            "tools": [_TOOL],
        },
        {"messages": [_ASKED, {"role": "assistant", "content": _PARTS, "reasoning_content": "Hm.", "weight": 1}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "x"}]},
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, *_PARTS]},
            ]
        },
        {"conversations": [_HI, {"from": "gpt", "value": "Hello"}], "system": "Be."},
        {
            "conversations": [
                _HI,
                _FUNCTION_CALL,
                {"from": "observation", "value": "1"},
                {"from": "gpt", "value": "One."},
            ],
            "tools": json.dumps([_TOOL]),
        },
        {"instruction": "Say it.", "input": "Snow", "output": "White.", "history": [["a", "b"]], "system": "Be."},
        {"prompt": "What colour is snow? ", "completion": "White."},
        {"prompt": [_ASKED], "completion": [_ANSWERED]},
        {"text": "Snow is white. " * 9},
    ],
    "preference": [
        {"prompt": [_ASKED], "chosen": [_ANSWERED], "rejected": [{"role": "assistant", "content": "Blue."}]},
        {"chosen": [_ASKED, _ANSWERED], "rejected": [_ASKED, {"role": "assistant", "content": "Blue."}]},
        {"prompt": "Snow?", "chosen": "White.", "rejected": "Blue."},
        {
            "conversations": [_HI],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        {"chosen": "\n\nHuman: Hi\n\nAssistant: a", "rejected": "\n\nHuman: Hi\n\nAssistant: b"},
    ],
    "unpaired": [
        {"prompt": "Snow?", "completion": "White.", "label": True},
        {"messages": [_ASKED, _ANSWERED], "label": False},
        {"instruction": "a", "output": "b", "label": "1"},
    ],
    "prompt": [{"prompt": "Snow?", "answer": "White"}, {"prompt": [_ASKED], "colour": "white"}, {"messages": [_ASKED]}],
}
_OPTIONS: tuple[dict[str, Any], ...] = (
    {}, {}, {"on_error": "skip"}, {"on_error": "skip", "deduplicate": True}, {"eval_split": 1}, {"eval_split": 0.5},
    {"train_on": "last"}, {"train_on": "all"}, {"truncation": "split_turns"}, {"truncation": "drop"},
    {"columns": {"messages": "conversations"}}, {"columns": {"from": "speaker"}}, {"roles": {"user": ("customer",)}},
    {"format": "messages"}, {"format": "sharegpt"}, {"format": "alpaca"}, {"format": "text"},
    {"format": "prompt_completion"}, {"format": "preference"}, {"format": "unpaired_preference"},
    {"format": "prompt_only"},
)  # fmt: skip


def prepare(folder: Path) -> Any:
    """The tokenizer of the packaged model."""
    from fastft.data.tokenizer import ChatTokenizer
    from fastft.model_files import resolve_model

    _ = folder
    return ChatTokenizer.load(resolve_model("fastft/tiny", weights=False))


def case(state: Any, random: Random, folder: Path, names: list[str]) -> None:
    from fastft.data.prepare import prepare_data
    from fastft.recipe.data_section import DataSection

    kind: Any = random.choice(list(ROWS))
    rows = [random.choice(ROWS[kind]) for _ in range(random.randint(1, 4))]
    if random.random() < 0.7:
        rows = [random.choice(rows)] * len(rows)
    rows = [spoil_value(row, random, most=2) if random.random() < 0.7 else row for row in rows]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json_text, rows)), encoding="utf-8", errors="surrogatepass")
    names += ["rows.jsonl", "data.format", "data.columns"]
    data = DataSection(path=str(path), **random.choice(_OPTIONS))
    prepared = prepare_data(data, state, max_length=random.choice((16, 64, 2048)), seed=1, kind=kind)
    prepared.audit.as_dict()
    assert list(prepared.train) or list(prepared.train_conversations)
    list(prepared.evaluation_conversations)
