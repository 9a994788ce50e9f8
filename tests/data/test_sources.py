"""Rows come with their places, the same from every kind of file."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastft.data.sources import Row, load_rows, looks_local, rename_columns
from fastft.errors import DatasetError

ROWS = [
    {"instruction": 'Say "hi", twice', "output": "hi\nhi"},
    {"instruction": "Café, 你好 👋🏽\u2028next", "output": "ok,;\t"},
    {"instruction": "", "output": "x" * 200_000},
]


def _csv(rows: list[dict[str, str]]) -> str:
    import csv
    import io

    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


FILES = {
    "list.json": (json.dumps(ROWS), "row 1", "row 3"),
    "pretty.json": (json.dumps(ROWS, indent=2, ensure_ascii=False), "row 1", "row 3"),
    "object.json": (json.dumps({"version": 1, "data": ROWS}), "row 1", "row 3"),
    "lines.json": ("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), ":1", ":3"),
    "lines.jsonl": ("\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n", ":1", ":5"),
    "crlf.jsonl": ("\r\n".join(json.dumps(row) for row in ROWS), ":1", ":3"),
    "mark.jsonl": ("\ufeff" + "\n".join(json.dumps(row) for row in ROWS), ":1", ":3"),
    "LOUD.JSONL": ("\n".join(json.dumps(row) for row in ROWS), ":1", ":3"),
    "table.csv": (_csv(ROWS), ":2", ":5"),
    "mark.csv": ("\ufeff" + _csv(ROWS), ":2", ":5"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_text_file_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    text, first, last = FILES[name]
    path = tmp_path / name
    path.write_bytes(text.encode())
    rows = load_rows(str(path))
    assert [row.values for row in rows] == ROWS
    joint = "" if first.startswith(":") else " "
    assert rows[0].place == f"{name}{joint}{first}"
    assert rows[2].place == f"{name}{joint}{last}"


def test_parquet_gives_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2)
    assert load_rows(str(path)) == [Row(row, f"a.parquet row {n}") for n, row in enumerate(ROWS, 1)]


def test_a_tsv_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("prompt\tcompletion\na, b\tc\n")
    assert load_rows(str(path)) == [Row({"prompt": "a, b", "completion": "c"}, "a.tsv:2")]


@pytest.mark.parametrize(
    ("path", "local"),
    [("data/train.jsonl", True), ("owner/name", False), ("owner/name-1.5_x", False), ("/a/b", True), ("a/b/c", True)],
)
def test_paths_and_hub_ids_are_told_apart(path: str, local: bool) -> None:
    assert looks_local(path) is local


def test_an_unreachable_hub_set_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DatasetError, match="fastft-tests/no-such-set") as caught:
        load_rows("fastft-tests/no-such-set")
    assert caught.value.hint


def test_columns_are_renamed() -> None:
    rows = [Row({"q": "a", "a": "b", "id": 1}, "r")]
    renamed = rename_columns(rows, {"instruction": "q", "output": "a"}, "x.csv")
    assert renamed == [Row({"instruction": "a", "output": "b", "id": 1}, "r")]
    with pytest.raises(DatasetError, match="maps output to 'answer', and no row has that column") as caught:
        rename_columns(rows, {"output": "answer"}, "x.csv")
    assert caught.value.hint == "Its columns are a, id, q."
    with pytest.raises(DatasetError, match="there is a column a already"):
        rename_columns(rows, {"a": "q"}, "x.csv")
    assert rename_columns(rows, {"a": "q", "q": "a"}, "x.csv")[0].values == {"a": "a", "q": "b", "id": 1}
