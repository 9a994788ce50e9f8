"""Rows come with their places, the same from every kind of file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from fastft.data.origins import HubSet
from fastft.data.rows import Row
from fastft.data.sources import Source, looks_local, open_held_out, open_sources
from fastft.errors import DatasetError, Fault
from fastft.recipe.schema import DataSection
from tests.data.reading import read_rows

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


# Of a hundred rows, with fraction 0.5 and seed 1: a change here changes what an old recipe trains on.
FIRST_OF_HALF = [0, 3, 6, 7, 8, 9, 10, 11]

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
    rows = read_rows(path)
    assert [row.values for row in rows] == ROWS
    joint = "" if first.startswith(":") else " "
    assert rows[0].place == f"{name}{joint}{first}"
    assert rows[2].place == f"{name}{joint}{last}"


def test_parquet_gives_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2)
    assert read_rows(path) == [Row(row, f"a.parquet row {n}") for n, row in enumerate(ROWS, 1)]


def test_a_tsv_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("prompt\tcompletion\na, b\tc\n")
    assert read_rows(path) == [Row({"prompt": "a, b", "completion": "c"}, "a.tsv:2")]


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
        read_rows("fastft-tests/no-such-set")
    assert caught.value.hint


def test_columns_are_renamed(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"q": "a", "a": "b", "id": 1}\n')
    renamed = read_rows(path, columns={"instruction": "q", "output": "a"})
    assert renamed == [Row({"instruction": "a", "output": "b", "id": 1}, "x.jsonl:1")]
    with pytest.raises(DatasetError, match="maps output to 'answer', and no row has that column") as caught:
        read_rows(path, columns={"output": "answer"})
    assert caught.value.hint == "Its columns are a, id, q."
    with pytest.raises(DatasetError, match="there is a column a already"):
        read_rows(path, columns={"a": "q"})
    assert read_rows(path, columns={"a": "q", "q": "a"})[0].values == {"a": "a", "q": "b", "id": 1}


def lines(path: Path, first: int, count: int) -> Path:
    """Rows {"n": first}, {"n": first + 1}, … in a file of JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(first, first + count)))
    return path


def open_all(path: object, *, seed: int = 0, split: str = "train", **more: object) -> list[Source]:
    data = DataSection.model_validate({"path": path, "split": split, **more})
    return open_sources(data, data.path, split=data.split, seed=seed)


def numbers(source: Source) -> list[int]:
    return [row.values["n"] for row in source.rows() if isinstance(row, Row)]


def test_a_file_is_one_source(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", 0, 3)
    (source,) = open_all(str(path), format="text", columns={"text": "n"})
    assert (source.name, source.format, source.columns) == ("a.jsonl", "text", {"text": "n"})
    assert list(source.rows()) == [Row({"text": n}, f"a.jsonl:{n + 1}") for n in range(3)]
    assert list(source.rows()) == list(source.rows())
    assert source.fingerprint() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_broken_line_is_given_among_the_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n[]\n{"n": 2}\n')
    (source,) = open_all(str(tmp_path / "a.jsonl"))
    one, fault, two = source.rows()
    assert (one, two) == (Row({"n": 1}, "a.jsonl:1"), Row({"n": 2}, "a.jsonl:3"))
    assert isinstance(fault, Fault)
    assert str(fault) == (
        "a.jsonl:2: a list; expected an object with the row's columns. Each row is an object: {column: value, …}"
    )


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    """What comes after the broken end of a list is not known before it is reached."""
    (tmp_path / "a.json").write_text('[{"n": 1}, {"n": 2}, oops')
    rows = open_all(str(tmp_path / "a.json"))[0].rows()
    assert [next(rows), next(rows)] == [Row({"n": 1}, "a.json row 1"), Row({"n": 2}, "a.json row 2")]
    with pytest.raises(DatasetError, match="not valid JSON at line 1, column 22"):
        next(rows)


def test_a_column_that_comes_late_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n' * 2000 + '{"n": 1, "functions": "f"}\n')
    rows = list(open_all(str(tmp_path / "a.jsonl"), columns={"tools": "functions"})[0].rows())
    assert rows[-1] == Row({"n": 1, "tools": "f"}, "a.jsonl:2001")
    (source,) = open_all(str(tmp_path / "a.jsonl"), columns={"tools": "fnctions"})
    with pytest.raises(DatasetError, match=r"a.jsonl: data.columns maps tools to 'fnctions', and no row") as caught:
        next(source.rows())
    assert caught.value.hint == "Its columns are functions, n."
    (source,) = open_all(str(tmp_path / "a.jsonl"), columns={"n": "functions"})
    with pytest.raises(DatasetError, match="there is a column n already"):
        list(source.rows())


def test_a_folder_with_files_of_splits(tmp_path: Path) -> None:
    for number, name in enumerate(["dev", "eval", "test", "train", "val", "valid", "validation", "other"]):
        lines(tmp_path / f"{name}.jsonl", number, 1)
    assert numbers(open_all(str(tmp_path))[0]) == [3]
    for number, split in enumerate(["dev", "eval", "test"]):
        assert numbers(open_all(str(tmp_path), split=split)[0]) == [number]
    data = DataSection.model_validate({"path": str(tmp_path), "eval_split": "val"})
    assert [numbers(source) for source in open_held_out(data)] == [[4]]
    with pytest.raises(DatasetError, match=r"the folder .* holds no tset file") as caught:
        open_all(str(tmp_path), split="tset")
    assert "holds dev.jsonl, eval.jsonl, other.jsonl, test.jsonl" in caught.value.hint


def test_a_folder_without_names_of_splits_is_read_whole(tmp_path: Path) -> None:
    for number, name in enumerate(["b.jsonl", "a.jsonl", "c.ndjson", "test.jsonl", ".hidden.jsonl"]):
        lines(tmp_path / name, number * 10, 2)
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "dataset_info.json").write_text("{}")
    (source,) = open_all(str(tmp_path))
    assert numbers(source) == [10, 11, 0, 1, 20, 21]
    assert [row.place for row in source.rows() if isinstance(row, Row)][1:3] == ["a.jsonl:2", "b.jsonl:1"]
    (tmp_path / "d.csv").write_text("n\n1\n")
    with pytest.raises(DatasetError, match=r"data files of several kinds: \.csv, \.") as caught:
        open_all(str(tmp_path))
    assert "*.csv" in caught.value.hint


def test_a_folder_with_shards_dotted_names_and_folders_of_splits(tmp_path: Path) -> None:
    for number in range(3):
        lines(tmp_path / "shards" / f"train-0000{number}-of-00003.jsonl", number, 1)
    lines(tmp_path / "shards" / "test-00000-of-00001.jsonl", 9, 1)
    assert numbers(open_all(str(tmp_path / "shards"))[0]) == [0, 1, 2]
    lines(tmp_path / "dotted" / "train.dpo.jsonl", 4, 1)
    lines(tmp_path / "dotted" / "val.dpo.jsonl", 5, 1)
    assert numbers(open_all(str(tmp_path / "dotted"))[0]) == [4]
    assert numbers(open_all(str(tmp_path / "dotted"), split="val")[0]) == [5]
    lines(tmp_path / "dotted" / "train.kto.jsonl", 6, 1)
    with pytest.raises(DatasetError, match=r"several train files: train.dpo.jsonl, train.kto.jsonl"):
        open_all(str(tmp_path / "dotted"))
    assert numbers(open_all(str(tmp_path / "dotted"), split="train.kto")[0]) == [6]
    lines(tmp_path / "nested" / "train" / "part.jsonl", 7, 1)
    lines(tmp_path / "nested" / "test" / "part.jsonl", 8, 1)
    assert numbers(open_all(str(tmp_path / "nested"))[0]) == [7]
    assert numbers(open_all(str(tmp_path / "nested"), split="test")[0]) == [8]


def test_a_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no data files") as caught:
        open_all(str(tmp_path))
    assert caught.value.hint == f"{tmp_path} is empty."
    lines(tmp_path / "test.jsonl", 0, 1)
    with pytest.raises(DatasetError, match="holds no train file"):
        open_all(str(tmp_path))


def test_a_glob_takes_its_matches_in_order(tmp_path: Path) -> None:
    for number, name in enumerate(["b/train.jsonl", "a/train.jsonl", "a/more.jsonl"]):
        lines(tmp_path / name, number * 10, 2)
    (source,) = open_all(str(tmp_path / "*" / "*.jsonl"))
    assert numbers(source) == [20, 21, 10, 11, 0, 1]
    assert [row.place for row in source.rows() if isinstance(row, Row)][::2] == [
        "a/more.jsonl:1",
        "a/train.jsonl:1",
        "b/train.jsonl:1",
    ]
    assert numbers(open_all(str(tmp_path / "**" / "train.jsonl"))[0]) == [10, 11, 0, 1]
    with pytest.raises(DatasetError, match=r"no file matches .*\*\.csv") as caught:
        open_all(str(tmp_path / "a" / "*.csv"))
    assert caught.value.hint == f"{tmp_path / 'a'} holds more.jsonl, train.jsonl."


def test_fingerprints_change_with_names_and_contents(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", 0, 1)
    lines(tmp_path / "b.jsonl", 1, 1)
    pattern = str(tmp_path / "*.jsonl")
    found = [open_all(pattern)[0].fingerprint()]
    (tmp_path / "b.jsonl").rename(tmp_path / "c.jsonl")
    found.append(open_all(pattern)[0].fingerprint())
    lines(tmp_path / "c.jsonl", 2, 1)
    found.append(open_all(pattern)[0].fingerprint())
    assert len(set(found)) == 3
    assert found[-1] == open_all(pattern)[0].fingerprint()


@pytest.fixture
def hundred(tmp_path: Path) -> str:
    return str(lines(tmp_path / "hundred.jsonl", 0, 100))


def test_a_mixture_gives_a_source_for_each_entry(hundred: str, tmp_path: Path) -> None:
    other = str(lines(tmp_path / "sub" / "hundred.jsonl", 100, 4))
    entries = [hundred, {"path": other, "format": "alpaca", "columns": {"input": "n"}}]
    first, second = open_all(entries, format="text")
    assert (first.name, first.format) == (f"{tmp_path.name}/hundred.jsonl", "text")
    assert (second.name, second.format, second.columns) == ("sub/hundred.jsonl", "alpaca", {"input": "n"})
    assert numbers(first) == list(range(100))
    assert list(second.rows())[-1] == Row({"input": 103}, "sub/hundred.jsonl:4")


@pytest.mark.parametrize(
    ("share", "times"),
    [
        ({"fraction": 1.0}, 100),
        ({"fraction": 0.25}, 25),
        ({"fraction": 0.001}, 1),
        ({"count": 7}, 7),
        ({"count": 100}, 100),
        ({"weight": 0.5}, 50),
        ({"weight": 1}, 100),
        ({"weight": 2.0}, 200),
        ({"weight": 1.5}, 150),
        ({"weight": 3.25}, 325),
    ],
)
def test_a_share_is_exact_and_in_order(hundred: str, share: dict[str, float], times: int) -> None:
    (source,) = open_all([{"path": hundred, **share}], seed=7)
    found = numbers(source)
    assert len(found) == times
    full, last = divmod(times, 100)
    assert found[: full * 100] == list(range(100)) * full
    rest = found[full * 100 :]
    assert len(rest) == last
    assert rest == sorted(set(rest))
    assert numbers(source) == found


def test_a_share_goes_by_the_seed_and_not_by_the_other_sources(hundred: str, tmp_path: Path) -> None:
    half = {"path": hundred, "fraction": 0.5}
    alone = numbers(open_all([half], seed=1)[0])
    other = str(lines(tmp_path / "sub" / "hundred.jsonl", 0, 30))
    assert numbers(open_all([{"path": other, "count": 3}, half], seed=1)[1]) == alone
    assert numbers(open_all([half], seed=2)[0]) != alone
    assert alone[:8] == FIRST_OF_HALF


def test_more_rows_than_there_are(hundred: str) -> None:
    (source,) = open_all([{"path": hundred, "count": 150}])
    with pytest.raises(DatasetError, match=r"hundred.jsonl: 150 rows are wanted, and it holds 100") as caught:
        next(source.rows())
    assert caught.value.hint == "Set count to at most 100; weight: 1.50 would repeat rows."


@pytest.mark.parametrize("share", [{"fraction": 0.5}, {"count": 1}, {"weight": 2}, {"weight": 2.5}])
def test_a_broken_line_is_told_once_whatever_the_share(tmp_path: Path, share: dict[str, float]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\noops\n{"n": 2}\n{"n"\n')
    (source,) = open_all([{"path": str(path), **share}])
    assert [row.where for row in source.rows() if isinstance(row, Fault)] == ["a.jsonl:2", "a.jsonl:4"]


def test_a_set_on_the_hub_is_read_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (source,) = open_all([{"path": "fastft-tests/no-such-set", "split": "test"}])
    assert source.name == "fastft-tests/no-such-set (test)"
    with pytest.raises(DatasetError, match="fastft-tests/no-such-set"):
        next(source.rows())


def test_rows_that_datasets_loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    lines(tmp_path / "set" / "train.jsonl", 0, 3)
    found = HubSet(str(tmp_path / "set"), None, "train[:2]", None)
    assert list(found.rows()) == [Row({"n": n}, f"{tmp_path / 'set'} row {n + 1}") for n in range(2)]
    other = HubSet(str(tmp_path / "set"), None, "train[1:]", None)
    assert found.fingerprint() == HubSet(str(tmp_path / "set"), None, "train[:2]", None).fingerprint()
    assert found.fingerprint() != other.fingerprint()


def test_held_out_rows_in_a_file_beside_a_hub_set(tmp_path: Path) -> None:
    """data.name, data.split and data.revision are about the Hub set alone."""
    path = str(lines(tmp_path / "held_out.jsonl", 0, 2))
    data = DataSection.model_validate({"path": "a/b", "name": "sub", "revision": "main", "eval_split": path})
    assert [numbers(source) for source in open_held_out(data)] == [[0, 1]]
    (source,) = open_held_out(data.model_copy(update={"eval_split": "test[:10%]"}))
    assert source.name == "a/b (test[:10%])"
    (source,) = open_held_out(data.model_copy(update={"path": str(tmp_path / "train.jsonl")}))
    assert source.name == "held_out.jsonl"


def test_turns_under_keys_and_roles_of_their_own_are_mapped(tmp_path: Path) -> None:
    rows = [{"dialog": [{"who": "customer", "said": "Hi"}, {"who": "agent", "said": "Hello!"}]}]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"conversations": "dialog", "from": "who", "value": "said"}
    data = DataSection.model_validate(
        {"path": str(path), "columns": columns, "roles": {"user": "customer", "assistant": ["agent", "bot"]}}
    )
    (source,) = open_sources(data, str(path), split="train")
    (row,) = source.rows()
    assert isinstance(row, Row)
    assert row.values == {"conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello!"}]}


@pytest.mark.parametrize("roles", [{"customer": "user"}, {"user": []}, {"user": [3]}, ["user"]])
def test_roles_are_checked(tmp_path: Path, roles: object) -> None:
    with pytest.raises(ValidationError):
        DataSection.model_validate({"path": str(tmp_path / "d.jsonl"), "roles": roles})
