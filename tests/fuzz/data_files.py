"""Data files of every kind, spoiled, cut short, renamed, packed without end: all rows of a source are read."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.mutations import DEEP, HUGE, json_text, spoil_bytes, spoil_value

MEMORY = 6 << 30  # bytes of address space; Arrow's allocator reserves 4 GB of it in time, and takes 0.3 GB at most
MOST_ROWS = 100_000  # looked at of one file
_BLOCK = 8 << 20  # bytes; a bomb is 300 of them
_BLOCKS = {"jsonl": b"a" * _BLOCK, "json": b"[" + b"1," * (_BLOCK // 2), "csv": b'"' + b"a\n" * (_BLOCK // 2),
           "broken.jsonl": b"[\n" * (_BLOCK // 2), "tsv": b"\t" * _BLOCK}  # fmt: skip
_NINES = b"9" * 10_000
_TEXTS = (
    b"",
    b"\n",
    b"\n" * 5000,
    b"\xef\xbb\xbf",
    b"[]",
    b"{}",
    b"[[]]",
    b"null",
    b"[null]",
    b"1",
    b'"x"',
    b"[1e999]",
    b'{"data": []}',
    b'{"a": [{"b": 1}], "c": [{}]}',
    b"[" * DEEP,
    b"[" * DEEP + b"]" * DEEP,
    b'{"a":' * DEEP,
    b'[{"a": ' + b"[" * DEEP + b"]" * DEEP + b"}]",
    b'{"a": ' + _NINES + b"}",
    b'[{"a": ' + _NINES + b"}]",
    b'{"a": NaN, "b": -Infinity}\n' * 3,
    b'{"a": 1, "a": 2}\n',
    b'[{"a": 1, "a": 2}]',
    b'{"a": "\\ud800"}\n',
    b'{"\\ud800": "x"}\n',
    b'{"' + b"k" * HUGE + b'": 1}',
    b'{"a": "' + b"x" * 3_000_000 + b'"}\n',
    b"{" + b",".join(b'"%d": 1' % n for n in range(20_000)) + b"}\n",
    b"\xff\xfe{\0}\0",
    b"PK\x03\x04",
    b"\0" * 5000,
    b"a,b\n1\n",
    b"a,a\n1,2\n",
    b",\n,\n",
    b'"a\n',
    b'a,b\n"x,y\n' * 50,
    b"a\r" * 50,
    b"a;b\n1;2\n",
    b"\x85\x0b\x0c\n",
    b"a" * 3_000_000,
    b",".join(b"c%d" % n for n in range(20_000)) + b"\n1\n",
    b"\x1b[2J,b\n1,2\n1\n",
    b'{"\x1b[2J": 1}',
)  # fmt: skip


def prepare(folder: Path) -> dict[str, Any]:
    """Real files of every kind, and bombs: small files that hold gigabytes."""
    import fastft.data.sources
    import fastft.recipe.schema  # noqa: F401

    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Say {n}: é, 😀."},
                {"role": "assistant", "content": f"It is {n}." * (n % 7)},
            ],
            "id": n,
            "score": n / 3,
        }
        for n in range(40)
    ]
    texts = {"jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(), "json": json.dumps(rows).encode()}
    texts["ndjson"] = texts["jsonl"].replace(b"\n", b"\r\n")
    texts["csv"], texts["tsv"] = (_delimited(rows, mark) for mark in ",\t")
    files = {f"train.{kind}": text for kind, text in texts.items()}
    packers = _packers().items()
    files |= {f"train.{kind}{suffix}": pack(text) for kind, text in texts.items() for suffix, pack in packers}
    return {"files": files | _columnar(rows, folder), "rows": rows, "bombs": _bombs()}


def _delimited(rows: list[dict[str, Any]], mark: str) -> bytes:
    made = io.StringIO()
    writer = csv.writer(made, delimiter=mark)
    writer.writerow(["prompt", "completion", "n"])
    writer.writerows([row["messages"][0]["content"], f'a "b"{mark}\n c', row["id"]] for row in rows)
    return made.getvalue().encode()


def _packers() -> dict[str, Any]:
    import pyarrow

    def zstd(data: bytes) -> bytes:
        made = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(made, "zstd") as stream:
            stream.write(data)
        return made.getvalue().to_pybytes()

    return {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lambda data: lzma.compress(data, preset=1), ".zst": zstd}


def _columnar(rows: list[dict[str, Any]], folder: Path) -> dict[str, bytes]:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist(rows)
    for codec in ("snappy", "zstd", "none", "gzip"):
        parquet.write_table(table, folder / f"{codec}.parquet", compression=codec, use_dictionary=codec != "none")
    with pyarrow.OSFile(str(folder / "file.arrow"), "wb") as out, pyarrow.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=16)
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    stream = pyarrow.OSFile(str(folder / "stream.arrow"), "wb")
    with stream as out, pyarrow.ipc.new_stream(out, table.schema, options=options) as writer:
        writer.write_table(table)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _bombs() -> dict[str, bytes]:
    """Each packer's streams may follow one another in a file, so one block is packed once."""
    packers = _packers()
    return {
        f"train.{kind}{suffix}": packers[suffix](block) * 300
        for kind, block in _BLOCKS.items()
        for suffix in ((".gz", ".zst") if kind == "jsonl" else (".zst",))
    }


def case(state: dict[str, Any], random: Random, folder: Path, names: list[str]) -> None:
    from fastft.data.sources import open_sources
    from fastft.recipe.data_section import DataSection

    path = _written(state, random, folder)
    names += [path.name, "train", str(folder), *(entry.name for entry in folder.iterdir())]
    columns = random.choice(({}, {}, {"prompt": "id"}, {"messages": "nothing"}, {"from": "role", "value": "content"}))
    data = DataSection(path=str(path), columns=columns)
    seen = 0
    for source in open_sources(data, data.path, split=random.choice(("train", "train", "test")), seed=1):
        for _ in source.rows():
            seen += 1
            if seen >= MOST_ROWS:
                return


def _written(state: dict[str, Any], random: Random, folder: Path) -> Path:
    """What a recipe would name: a file, a folder or a glob."""
    way = random.randrange(100)
    name, data = random.choice(list(state["files"].items()))
    if way < 2:
        name, data = random.choice(list(state["bombs"].items()))
    elif way < 50:
        data = spoil_bytes(data, random)
    elif way < 70:
        name, data = _spoiled_rows(state["rows"], random)
    elif way < 85:
        name = random.choice([name for name in state["files"] if "parquet" not in name])
        data = random.choice(_TEXTS)
        data = _packers()[Path(name).suffix](data) if Path(name).suffix in _packers() else data
    elif way < 92:
        name = random.choice(list(state["files"]))  # the name of another kind
    else:
        return _odd_place(random, folder, data)
    (folder / name).write_bytes(data)
    if random.random() < 0.1:
        return folder if random.random() < 0.5 else folder / "t*"
    return folder / name


def _spoiled_rows(rows: list[dict[str, Any]], random: Random) -> tuple[str, bytes]:
    some = [spoil_value(row, random) if random.random() < 0.5 else row for row in rows[:5]]
    if random.random() < 0.5:
        return "train.jsonl", "\n".join(map(json_text, some)).encode("utf-8", "surrogatepass")
    return "train.json", json_text(spoil_value(some, random)).encode("utf-8", "surrogatepass")


def _odd_place(random: Random, folder: Path, data: bytes) -> Path:
    """Names and kinds of files that a path may meet."""
    way = random.randrange(9)
    plain = folder / "train.jsonl"
    if way == 0:
        os.mkfifo(plain)
    elif way == 1:
        plain.symlink_to(random.choice(("/dev/zero", "train.jsonl", "nowhere", "/proc/self/mem", "/dev")))
    elif way == 2:
        plain.mkdir()
    elif way == 3:
        plain = folder / random.choice(("train.\x1b[2J.jsonl", "train\n.jsonl", "train.\udcff.jsonl", "train .csv"))
        plain.write_bytes(data)
    elif way == 4:
        for name in ("train.jsonl", "train.csv", "train.a.json", "train.b.json"):
            (folder / name).write_bytes(data)
        return folder
    elif way == 5:
        return folder / random.choice(("t[", "**", "*/../*", "train.[!x]*", "a\0b.jsonl", "x" * 300 + ".jsonl"))
    elif way == 6:
        plain = folder / random.choice(("train.zip", "train.gz", "train", "train.xlsx", "train.parquet.gz", ".jsonl"))
        plain.write_bytes(data)
    elif way == 7:
        with plain.open("wb") as file:  # all holes: gigabytes of zeros that take no room
            file.truncate(5 << 30)
    else:
        for name in ("a.jsonl", "b.jsonl"):
            (folder / name).write_bytes(data[: random.randint(0, len(data))])
        return folder / "*.jsonl"
    return plain
