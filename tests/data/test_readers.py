"""Readers give rows and faults one after the other, whatever stands in a file, and hold no file in memory."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastft.data.readers import kind_of, read_file
from fastft.data.rows import Row
from fastft.errors import DatasetError, Fault
from tests.data.reading import read_rows

GOOD = {"text": "fine"}
LINE = json.dumps(GOOD).encode()


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


def read(path: Path) -> list[Row | Fault]:
    return list(read_file(path, path.name))


# One malformed row each, between two good ones: file, the row, where, what is said of it.
MALFORMED = [
    ("a.jsonl", b"{oops}", ":2", "not valid JSON at column 2 (Expecting property name enclosed in double quotes)"),
    ("a.jsonl", b'{"text": "cut', ":2", "not valid JSON at column 10 (Unterminated string starting at)"),
    ("a.jsonl", b'{"text": "a"', ":2", "the JSON breaks off at column 13 (Expecting ',' delimiter): the line is cut"),
    ("a.jsonl", b"{'text': 'a'}", ":2", "not valid JSON at column 2 (Expecting property name"),
    ("a.jsonl", b'{"text": None}', ":2", "not valid JSON at column 10 (Expecting value), near 'None}'"),
    ("a.jsonl", b'{"text": "a",}', ":2", "not valid JSON at column 14"),
    ("a.jsonl", b'{"text": "a"} {"text": "b"}', ":2", "not valid JSON at column 15 (Extra data)"),
    ("a.jsonl", b'{"text": "a"},', ":2", "not valid JSON at column 14 (Extra data)"),
    ("a.jsonl", b'{"text": "a\tb"}', ":2", "not valid JSON at column 12 (Invalid control character at)"),
    ("a.jsonl", b'{"text": "\\x41"}', ":2", "not valid JSON at column 11 (Invalid \\escape)"),
    ("a.jsonl", b'{"text": "a", "text": "b"}', ":2", "an object has the key 'text' twice"),
    ("a.jsonl", b'{"text": {"a": 1, "a": 2}}', ":2", "an object has the key 'a' twice"),
    ("a.jsonl", b'{"text": "caf\xe9"}', ":2", "the byte 0xe9 is not UTF-8"),
    ("a.jsonl", b'{"text": "\0"}', ":2", "a NUL byte, which no text file has"),
    ("a.jsonl", b'["text"]', ":2", "a list"),
    ("a.jsonl", b'"text"', ":2", "a str"),
    ("a.jsonl", b"null", ":2", "nothing (null)"),
    ("a.jsonl", b"42", ":2", "a int"),
    ("a.jsonl", b"plain words", ":2", "not valid JSON at column 1 (Expecting value), near 'plain words'"),
    ("a.jsonl", b'{"text": ' + b"[" * 100_000, ":2", "maximum recursion depth exceeded"),
    ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", ":2", "Exceeds the limit (4300 digits)"),
    ("lines.json", b"{oops}", ":2", "not valid JSON at column 2"),
    ("list.json", b'"text"', " row 2", "a str"),
    ("list.json", b"null", " row 2", "nothing (null)"),
    ("list.json", b'{"text": "a", "text": "b"}', " row 2", "an object has the key 'text' twice"),
    ("a.csv", b"a,b", ":3", "2 cells"),
    ("a.csv", b'"a"b', ":3", "not valid CSV (',' expected after '\"')"),
    ("a.csv", b"caf\xe9", ":3", "the byte 0xe9 is not UTF-8"),
    ("a.csv", b"a\0b", ":3", "a NUL byte, which no text file has"),
    ("a.tsv", b"a\tb", ":3", "2 cells"),
    ("a.tsv", b'"a"b', ":3", "not valid TSV ('\t' expected after '\"')"),
]


def surrounded(name: str, row: bytes) -> bytes:
    if name == "list.json":
        return b"[" + b",\n".join([LINE, row, LINE]) + b"]"
    if name.endswith("sv"):
        return b"\n".join([b"text", b"fine", row, b"fine", b""])
    return b"\n".join([LINE, row, LINE, b""])


@pytest.mark.parametrize(("name", "row", "where", "found"), MALFORMED)
def test_a_malformed_row_is_named_and_reading_goes_on(
    tmp_path: Path, name: str, row: bytes, where: str, found: str
) -> None:
    path = tmp_path / name
    path.write_bytes(surrounded(name, row))
    first, fault, last = read(path)
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert first.values == last.values == GOOD
    assert isinstance(fault, Fault)
    assert fault.where == f"{name}{where}"
    assert fault.found.startswith(found)
    assert fault.expected


def test_two_hundred_malformed_rows_are_two_hundred_faults(tmp_path: Path) -> None:
    rows = [row for name, row, _, _ in MALFORMED if name == "a.jsonl"]
    lines = [(rows[number % len(rows)] if number % 2 else LINE) for number in range(400)]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    found = read(path)
    assert [fault.where for fault in found if isinstance(fault, Fault)] == [f"a.jsonl:{n}" for n in range(2, 401, 2)]
    assert [row.place for row in found if isinstance(row, Row)] == [f"a.jsonl:{n}" for n in range(1, 401, 2)]


def test_an_open_quote_takes_the_rest_of_a_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text\nfine\n"open\nfine\n')
    assert read(path)[1:] == [
        Fault(
            "a.csv:3",
            "not valid CSV (unexpected end of data)",
            "a record of cells",
            'A cell with quotes or line breaks stands in quotes, and quotes inside are doubled: "a ""b"" c"',
        )
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_ends_of_lines_and_byte_order_marks(tmp_path: Path, end: bytes, mark: bytes) -> None:
    for name, lines in (("a.jsonl", [LINE, b"", b" ", LINE]), ("a.json", [LINE, b"", b" ", LINE])):
        (tmp_path / name).write_bytes(mark + end.join(lines))
        assert read(tmp_path / name) == [Row(GOOD, f"{name}:1"), Row(GOOD, f"{name}:4")]
    (tmp_path / "a.csv").write_bytes(mark + end.join([b"text", b"fine", b"", b'"a', b'b"', b"last"]))
    values = [(row.values["text"], row.place) for row in read(tmp_path / "a.csv") if isinstance(row, Row)]
    assert values == [("fine", "a.csv:2"), (f"a{end.decode()}b", "a.csv:4"), ("last", "a.csv:6")]


def test_a_csv_file_of_an_old_mac(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text\rfine\rfine")
    assert read(tmp_path / "a.csv") == [Row(GOOD, "a.csv:2"), Row(GOOD, "a.csv:3")]


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    row = {"text": "a\u2028b\u2029c\x85d\x0be"}
    (tmp_path / "a.jsonl").write_bytes(json.dumps(row, ensure_ascii=False).replace("\x0b", "\\u000b").encode() + b"\n")
    assert read(tmp_path / "a.jsonl") == [Row(row, "a.jsonl:1")]


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("a.jsonl", LINE + b"\n" + LINE, ["a.jsonl{}:1", "a.jsonl{}:2"]),
        ("a.json", b"[" + LINE + b"," + LINE + b"]", ["a.json{} row 1", "a.json{} row 2"]),
        ("a.csv", b"text\nfine\nfine\n", ["a.csv{}:2", "a.csv{}:3"]),
        ("a.tsv", b"text\nfine\nfine\n", ["a.tsv{}:2", "a.tsv{}:3"]),
    ],
)
def test_packed_files_are_read_through(
    tmp_path: Path, suffix: str, name: str, content: bytes, places: list[str]
) -> None:
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(PACKERS[suffix](content))
    assert read(path) == [Row(GOOD, place.format(suffix)) for place in places]


@pytest.mark.parametrize("suffix", PACKERS)
def test_packed_files_in_parts_and_damaged(tmp_path: Path, suffix: str) -> None:
    pack, path = PACKERS[suffix], tmp_path / f"a.jsonl{suffix}"
    many = b"".join(json.dumps({"text": f"{n} " * 50}).encode() + b"\n" for n in range(5000))
    path.write_bytes(pack(many) + pack(LINE))
    assert len(read(path)) == 5001
    path.write_bytes(pack(many)[:-500])
    with pytest.raises(DatasetError, match=rf"^a\.jsonl\{suffix}: the \w+ data can't be unpacked"):
        read(path)
    path.write_bytes(LINE)
    with pytest.raises(DatasetError, match=rf"^a\.jsonl\{suffix}: the \w+ data can't be unpacked"):
        read(path)


def test_a_list_in_json_is_read_up_to_its_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + LINE + b",\n" + LINE + b" " + LINE + b"]")
    rows = read_file(path, "a.json")
    assert [next(rows), next(rows)] == [Row(GOOD, "a.json row 1"), Row(GOOD, "a.json row 2")]
    with pytest.raises(DatasetError, match=r"a\.json: not valid JSON at line 2, column 18 \(Expecting ',' delimiter\)"):
        next(rows)
    path.write_bytes(b"[" + LINE + b"]\n" + LINE)
    with pytest.raises(DatasetError, match=r"not valid JSON at line 2, column 1 \(Extra data\)"):
        read(path)


def test_json_with_blank_lines_before_its_lines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\n\n" + LINE + b"\n\n" + LINE)
    assert read(tmp_path / "a.json") == [Row(GOOD, "a.json:3"), Row(GOOD, "a.json:5")]


def test_parquet_and_arrow(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": str(n), "turns": [{"role": "user", "n": n}]} for n in range(700)]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    with pa.OSFile(str(tmp_path / "file.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=400)
    with pa.OSFile(str(tmp_path / "stream.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=400)
    for name in ("a.parquet", "file.arrow", "stream.arrow"):
        assert read(tmp_path / name) == [Row(row, f"{name} row {n}") for n, row in enumerate(rows, 1)]
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        kind = "Parquet" if name.endswith("parquet") else "Arrow"
        with pytest.raises(DatasetError, match=rf"^{name} is not a readable {kind} file: "):
            read(tmp_path / name)


def test_a_damaged_value_in_parquet_and_arrow_is_named(tmp_path: Path) -> None:
    values = pa.array([b"fine", b"caf\xe9", b"fine"]).view(pa.string())
    table = pa.table({"text": values})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        first, fault, last = read(tmp_path / name)
        assert (first, last) == (Row(GOOD, f"{name} row 1"), Row(GOOD, f"{name} row 3"))
        assert isinstance(fault, Fault)
        assert fault.where == f"{name} row 2"
        assert fault.found.startswith("a damaged value (In column 0: Invalid")


def test_a_set_that_datasets_wrote(tmp_path: Path) -> None:
    from datasets import Dataset

    from fastft.data.readers.finding import find_files

    Dataset.from_list([{"text": "a"}, {"text": "b"}]).save_to_disk(str(tmp_path / "set"))
    (file,) = find_files(tmp_path / "set")
    assert [row.values for row in read(file) if isinstance(row, Row)] == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", ".jsonl"),
        ("train.dpo.jsonl", ".jsonl"),
        ("a.b.JSON.GZ", ".json"),
        ("a.csv.zst", ".csv"),
        ("a.gz", ""),
        ("a.parquet.gz", ""),
        ("a.txt", ""),
        ("a.txt.gz", ""),
        ("jsonl", ""),
    ],
)
def test_kinds_by_name(name: str, kind: str) -> None:
    assert kind_of(Path(name)) == kind


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("a.zip", "a.zip: .zip files can't be read", "Unpack it"),
        ("a.gz", "a.gz: what is in it can't be told from its name", "for example a.jsonl.gz"),
        ("a.parquet.gz", "a.parquet.gz: .parquet files can't be read from .gz", "Unpack it: a.parquet."),
        ("a.xlsx", "a.xlsx: the suffix '.xlsx' names no known kind of data file", "Save the sheet as CSV. Known are"),
    ],
)
def test_kinds_that_cannot_be_read(name: str, message: str, hint: str) -> None:
    with pytest.raises(DatasetError) as caught:
        read_file(Path(name), name)
    assert caught.value.message == message
    assert hint in caught.value.hint


MEASURE = """
import resource, sys
from pathlib import Path
from fastft.data.readers import read_file
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
path = Path(sys.argv[1])
next(iter(read_file(path, path.name)))  # with what reading imports
before = peak()
rows = sum(1 for _ in read_file(path, path.name))
print(rows, peak() - before)
"""


def write_many(path: Path) -> None:
    rows: Iterator[dict[str, Any]] = ({"text": f"{n} " + "word " * 100} for n in range(200_000))
    if path.suffix == ".jsonl":
        with path.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    elif path.suffix == ".csv":
        with path.open("w") as file:
            file.write("text\n")
            file.writelines(row["text"] + "\n" for row in rows)
    else:
        pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=5000)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_memory_is_flat_in_the_number_of_rows(tmp_path: Path, name: str) -> None:
    """200,000 rows in 100 MB, read with less than 50 MB."""
    write_many(tmp_path / name)
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path / name)], capture_output=True, check=True)
    rows, megabytes = map(int, done.stdout.split())
    assert rows == 200_000
    assert megabytes < 50


def _refused(path: Path) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        read_rows(path)
    return caught.value


def test_a_line_longer_than_any_row_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fastft.data.readers.opening as opening

    monkeypatch.setattr(opening, "MOST_LINE", 1 << 20)
    for name in ("a.jsonl", "a.csv"):
        (tmp_path / name).write_text('{"text": "x"}\n' + "y" * (1 << 20) + "yy\n")
        assert f"{name}:2: the line is longer than 1 MB" in _refused(tmp_path / name).message


def test_pipes_devices_and_files_of_zeros_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    with (tmp_path / "holes.jsonl").open("wb") as file:
        file.truncate(5 << 30)
    assert "is a pipe or a device" in _refused(tmp_path / "pipe.jsonl").message
    assert "is a pipe or a device" in _refused(tmp_path / "zero.csv").message
    assert "no text but zeros" in _refused(tmp_path / "holes.jsonl").message


def test_a_list_that_takes_more_than_the_free_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_text('[{"text": "' + "x" * 1000 + '"}]')
    assert len(read_rows(tmp_path / "a.json")) == 1
    monkeypatch.setattr("fastft.host_memory.free_memory", lambda: 3000)
    error = _refused(tmp_path / "a.json")
    assert error.message == "a.json holds more than there is memory to read at once"
    assert ".jsonl" in error.hint


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    for name in ("x" * 300 + ".jsonl", "a\0b.jsonl"):
        assert "no such file" in _refused(tmp_path / name).message
