"""Broken data files: one message each, with the exact place, and nothing else."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastft.data.prepare import prepare_data
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import DatasetError
from fastft.recipe.schema import DataSection


@dataclass(frozen=True)
class Broken:
    file: str
    content: bytes | str
    says: tuple[str, ...]


GOOD = {"instruction": "Add 1 and 1.", "input": "", "output": "2"}
LINE = json.dumps(GOOD)
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def _jsonl(*rows: object) -> str:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n"


def _chat(*turns: dict[str, object], key: str = "messages") -> str:
    return json.dumps({key: list(turns)})


BROKEN = {
    "empty": Broken("a.jsonl", "", ("a.jsonl is empty",)),
    "only white space": Broken("a.json", " \n\n", ("a.json is empty",)),
    "only a byte-order mark": Broken("a.csv", b"\xef\xbb\xbf", ("a.csv is empty",)),
    "empty list": Broken("a.json", "[]", ("a.json holds no rows",)),
    "header and no rows": Broken("a.csv", "instruction,output\n", ("a.csv holds no rows",)),
    "json with a missing comma": Broken(
        "a.json", f"[\n{LINE}\n{LINE}\n]", ("a.json: not valid JSON at line 3, column 1", "Expecting ',' delimiter")
    ),
    "json cut short": Broken(
        "a.json", f"[{LINE},\n{LINE[:20]}", ("a.json: the JSON breaks off at line 2", "cut short")
    ),
    "json with a trailing comma": Broken("a.json", f"[{LINE},]", ("a.json: not valid JSON at line 1",)),
    "python instead of json": Broken("a.json", str([GOOD]), ("not valid JSON at line 1, column 3", "double quotes")),
    "a key twice": Broken("a.json", '[{"text": "a", "text": "b"}]', ("an object has the key 'text' twice",)),
    "a single object": Broken("a.json", LINE, ("a.json holds one object with 'instruction', 'input', 'output'",)),
    "columns instead of rows": Broken(
        "a.json", '{"instruction": ["a"], "output": ["b"]}', ("one object with 'instruction', 'output'", "not certain")
    ),
    "a number": Broken("a.json", "3", ("a.json holds a single int",)),
    "rows that are no objects": Broken(
        "a.json", f'[{LINE}, 5, "x"]', ("2 broken rows", "a.json row 2: a int", "a.json row 3: a str")
    ),
    "nested too deep": Broken("a.json", "[" * 200_000, ("a.json:", "recursion")),
    "jsonl with a broken line": Broken(
        "a.jsonl", _jsonl(GOOD, LINE[:-4], GOOD), ("a broken line", "a.jsonl:2: the JSON breaks off at column 55")
    ),
    "jsonl with many broken lines": Broken(
        "a.jsonl",
        _jsonl(*[GOOD, "{oops"] * 15),
        ("15 broken lines", "a.jsonl:4, a.jsonl:6", "10 more: not valid"),
    ),
    "jsonl cut short": Broken("a.jsonl", _jsonl(GOOD, GOOD)[:-20], ("a.jsonl:2: the JSON breaks off at column 41",)),
    "jsonl with an array line": Broken("a.jsonl", _jsonl(GOOD, [GOOD]), ("a.jsonl:2: a list; expected an object",)),
    "pretty-printed json named jsonl": Broken("a.jsonl", json.dumps(GOOD, indent=1), ("a.jsonl:1:", "on each line")),
    "latin-1": Broken("a.jsonl", _jsonl(GOOD).encode() + b'{"text": "caf\xe9"}', ("a.jsonl:2: the byte 0xe9",)),
    "utf-16": Broken("a.json", json.dumps([GOOD]).encode("utf-16"), ("a.json is UTF-16 text",)),
    "nul bytes": Broken("a.jsonl", _jsonl(GOOD) + "\0\0", ("a.jsonl:2: a NUL byte",)),
    "binary junk": Broken("a.json", bytes(range(128, 256)), ("a.json:1: the byte 0x80 is not UTF-8",)),
    "gzip data under another name": Broken("a.json", gzip.compress(LINE.encode()), ("a.json is gzip data",)),
    "gzip cut short": Broken(
        "a.jsonl.gz", gzip.compress(LINE.encode())[:-9], ("a.jsonl.gz: the gzip data can't be unpacked (",)
    ),
    "a name that hides the kind": Broken("a.gz", gzip.compress(LINE.encode()), ("a.gz: what is in it can't be told",)),
    "a zip archive": Broken("a.zip", b"PK\x03\x04", ("a.zip: .zip files can't be read",)),
    "unknown suffix": Broken("a.txt", LINE, ("a.txt: the suffix '.txt' names no known kind",)),
    "no suffix": Broken("data", LINE, ("data: no suffix names no known kind",)),
    "parquet under another name": Broken("a.jsonl", b"PAR1" + bytes(20), ("a.jsonl is Parquet data",)),
    "text named parquet": Broken("a.parquet", LINE, ("a.parquet is not a readable Parquet file",)),
    "csv with a ragged row": Broken(
        "a.csv", "instruction,output\na,b\nc\nd,e,f\n", ("2 broken rows", "a.csv:3: 1 cells", "a.csv:4: 3 cells")
    ),
    "ragged after a cell of two lines": Broken("a.csv", 'instruction,output\n"a\nb",c\nd\n', ("a.csv:4: 1 cells",)),
    "csv with an open quote": Broken("a.csv", 'instruction,output\n"a,b\n', ("a.csv:2: not valid CSV",)),
    "csv without header": Broken("a.csv", "What is up?,Not much\nand you?,fine\n", ("has the columns", "What is up?")),
    "csv with semicolons": Broken("a.csv", "instruction;output\na;b\n", ("cells must be divided by a comma",)),
    "csv with a nameless column": Broken("a.csv", "instruction,\na,b\n", ("a.csv:1: column 2 has no name",)),
    "csv with a column twice": Broken("a.csv", "text,text\na,b\n", ("a.csv:1: the column 'text' stands there twice",)),
    "unknown columns": Broken(
        "a.jsonl", _jsonl({"q": "a", "a": "b"}), ("no known format has the columns q, a", "data.columns")
    ),
    "two formats at once": Broken(
        "a.jsonl", _jsonl({**GOOD, "text": "t"}), ("fit more than one format: alpaca, text", "data.format")
    ),
    "formats mixed over rows": Broken(
        "a.jsonl", _jsonl(GOOD, CHAT), ("different formats: messages from a.jsonl:2; alpaca from a.jsonl:1",)
    ),
    "a row without its column": Broken(
        "a.jsonl", _jsonl(GOOD, {"instruction": "a"}), ("a.jsonl:2: output is missing; expected a text in output",)
    ),
    "a number where text belongs": Broken(
        "a.json", json.dumps([{"instruction": "a", "output": 3}]), ("a.json row 1: output is the number 3",)
    ),
    "null where text belongs": Broken(
        "a.jsonl", _jsonl({"instruction": "a", "output": None}), ("a.jsonl:1: output is nothing (null)",)
    ),
    "half an emoji": Broken("a.jsonl", '{"text": "ok \\ud83d"}', ("a.jsonl:1: a text holds U+D83D",)),
    "unknown role": Broken(
        "a.jsonl", _jsonl(CHAT, _chat({"role": "narrator", "content": "x"})), ("a.jsonl:2: message 1 has the role",)
    ),
    "a message without content": Broken(
        "a.jsonl", _chat({"role": "user", "content": "x"}, {"role": "assistant"}), ("message 2 has no content",)
    ),
    "a message that is text": Broken(
        "a.jsonl", json.dumps({"messages": [{"role": "user", "content": "x"}, "hello"]}), ("message 2 is the text",)
    ),
    "no messages": Broken("a.jsonl", _jsonl(CHAT, {"messages": []}), ("a.jsonl:2: the list of messages is empty",)),
    "messages that are text": Broken(
        "a.jsonl", _jsonl(CHAT, {"messages": "hello"}), ("a.jsonl:2: messages is the text 'hello', which is not JSON",)
    ),
    "sharegpt from nobody": Broken(
        "a.json", f"[{_chat({'from': 'alien', 'value': 'x'}, key='conversations')}]", ("row 1: turn 1 is from 'alien'",)
    ),
    "sharegpt without value": Broken(
        "a.json", f"[{_chat({'from': 'human'}, key='conversations')}]", ("row 1: in turn 1, value is missing",)
    ),
    "a function call that is no JSON": Broken(
        "a.json",
        f"[{_chat({'from': 'human', 'value': 'x'}, {'from': 'function_call', 'value': 'f(x)'}, key='conversations')}]",
        ("row 1: the function_call in turn 2 is the text 'f(x)', which is not JSON",),
    ),
    "tools that are no list": Broken("a.jsonl", _jsonl({**CHAT, "tools": '{"name": 1}'}), ("a.jsonl:1: tools is",)),
    "preference pairs": Broken(
        "a.jsonl", _jsonl({"prompt": "a", "chosen": "b", "rejected": "c"}), ("a.jsonl:1", "preference pairs")
    ),
    "unpaired preferences": Broken("a.jsonl", _jsonl({**CHAT, "label": False}), ("a.jsonl:1", "unpaired preferences")),
    "nothing to learn": Broken(
        "a.jsonl",
        _jsonl(_chat({"role": "user", "content": "x"}), {"messages": [{"role": "assistant", "content": " "}]}),
        ("nothing is left to train on", "a.jsonl:1: the row has no assistant turn (1 row)", "a.jsonl:2: an assistant"),
    ),
}


def _prepare(path: Path, tokenizer: ChatTokenizer) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        prepare_data(DataSection.model_validate({"path": str(path)}), tokenizer, max_length=512, seed=1)
    return caught.value


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gives_one_message_with_its_place(name: str, tmp_path: Path, qwen: ChatTokenizer) -> None:
    broken = BROKEN[name]
    path = tmp_path / broken.file
    path.write_bytes(broken.content if isinstance(broken.content, bytes) else broken.content.encode())
    error = _prepare(path, qwen)
    for part in broken.says:
        assert part in str(error)
    assert error.hint
    assert error.exit_code == 2
    assert len(str(error)) < 4000


def test_missing_files_and_folders(tmp_path: Path, qwen: ChatTokenizer) -> None:
    assert "none.jsonl: no such file" in str(_prepare(tmp_path / "none.jsonl", qwen))
    assert f"the folder {tmp_path} holds no data files" in str(_prepare(tmp_path, qwen))
    assert f"no file matches {tmp_path}/*.jsonl" in str(_prepare(tmp_path / "*.jsonl", qwen))
    error = _prepare(Path("just-a-word"), qwen)
    assert "just-a-word: no such file" in str(error)
    assert "Hub id" in error.hint


def test_a_parquet_file_cut_short(tmp_path: Path, qwen: ChatTokenizer) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([GOOD] * 100), path)
    path.write_bytes(path.read_bytes()[:-30])
    assert "a.parquet is not a readable Parquet file" in str(_prepare(path, qwen))


@pytest.mark.parametrize("key", ["name", "revision", "split"])
def test_hub_keys_on_a_local_file(tmp_path: Path, qwen: ChatTokenizer, key: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(LINE)
    with pytest.raises(DatasetError, match=rf"data.{key} is 'other', but .*a\.jsonl is a local file"):
        prepare_data(DataSection.model_validate({"path": str(path), key: "other"}), qwen, max_length=99, seed=1)
