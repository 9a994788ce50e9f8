"""Files that are no recipes: one clear message each, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastft.errors import RecipeError
from fastft.recipe.load import load_recipe
from tests.recipe.conftest import VALID


def refused(path: Path) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    return caught.value


# bytes of the file | the message after the path | part of the hint
UNREADABLE = [
    (b"", " is empty", "recipes/qlora_chat.yaml"),
    (b"# only a comment\n", " is empty", ""),
    (b"- model\n- data\n", ":1: the recipe is a list; expected sections such as `model:` and `data:`", ""),
    (b"\njust text\n", ":2: the recipe is a single text; expected sections such as `model:` and `data:`", ""),
    (b"model:\n\tmodel_name: a/b\n", ":2:1: not valid YAML: found character '\\t' that cannot start any token", "tabs"),
    (b"data: @x\n", ":1:7: not valid YAML: found character '@' that cannot start any token", "needs quotes"),
    (b"model:\n  model_name: a: b\n", ":2:16: not valid YAML: mapping values are not allowed here", "quotes"),
    (b"lora: {r: 8\ndata: x\n", ":2:5: not valid YAML: expected ',' or '}', but got ':'", "not closed"),
    (b'data: "open\n', ":2:1: not valid YAML: found unexpected end of stream", "never closed"),
    (
        b"lora:\n  r: 8\n data: x\n",
        ":3:2: not valid YAML: expected <block end>, but found '<block mapping start>'",
        "indented",
    ),
    (b"model: {}\n---\ndata: {}\n", ":2:1: not valid YAML: but found another document", "one document"),
    (b"data: *nowhere\n", ":1:7: not valid YAML: found undefined alias 'nowhere'", ""),
    (b"a: \x00\n", ": not valid YAML: unacceptable character #x0000: special characters are not allowed", ""),
    (b"ok: 1\nname: M\xfcller\n", ":2: not UTF-8 text (byte 0xfc)", "Save the file as UTF-8"),
    ("model: {}\n".encode("utf-16"), ":1: not UTF-8 text (byte 0xff)", "Save the file as UTF-8"),
    (b"[" * 5000, " is nested too deeply to be a recipe", ""),
    (b"#" * 250_001, " has 250,001 bytes; that is no recipe", ""),
    (
        b"a0: &a0 [x]\n"
        + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 30)),
        " holds more than 20,000 values; that is no recipe",
        "",
    ),
    (b"{a: " * 60 + b"}" * 60, " is nested too deeply to be a recipe", ""),
    (b'a: "\\U0011ffff"\n', ": not valid YAML: chr() arg not in range(0x110000)", ""),
]


@pytest.mark.parametrize(("content", "message", "hint"), UNREADABLE)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes, message: str, hint: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    error = refused(path)
    assert error.message == f"{path}{message}"
    assert hint in error.hint


def test_a_missing_file_names_its_nearest(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text(VALID)
    error = refused(tmp_path / "quikstart.yaml")
    assert error.message == f"there is no recipe at {tmp_path / 'quikstart.yaml'}"
    assert error.hint == f"Did you mean {tmp_path / 'quickstart.yaml'}?"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path / "nowhere" / "recipe.yaml")
    assert f"The folder {tmp_path / 'nowhere'} does not exist either" in error.hint


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("good.jsonl", '{"text": "a"}\n{"text": "b"}\n'),
        ("one.jsonl", '{"text": "a"}\n'),
        ("long.jsonl", '{"text": "a"}\n' * 30_000),
        ("list.json", '[{"text": "a"},\n {"text": "b"}]\n'),
        ("lines.json", '\n{"text": "a"}\r\n{"text": "b"}\r\n'),
        ("rows.yaml", '{"text": "a"}\n\n{"text": "b"}\n'),
        ("table.csv", "prompt,completion\na,b\n"),
        ("rows.jsonl.gz", "\x1f\x8b"),
        ("rows.parquet", "PAR1"),
    ],
)
def test_a_data_file_is_told_where_it_belongs(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode("latin-1"))
    error = refused(path)
    assert error.message == f"{path} looks like a data file, not a recipe"
    assert f"data: {{path: {path}}}" in error.hint


def test_a_recipe_in_json_with_a_slip_is_no_data_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text('{"model": {"model_name": "a/b"}\n "lora": {"r": 4}}')
    assert "not valid YAML" in refused(path).message


def test_a_run_directory_is_told_with_whole_commands(tmp_path: Path) -> None:
    run = tmp_path / "my runs"
    run.mkdir()
    (run / "start.json").write_text("{}")
    error = refused(run)
    assert error.message == f"{run} is a run directory, not a recipe"
    assert f"`fastft train '{run}' --resume`" in error.hint
    assert f"`fastft train '{run / 'recipe.yaml'}' --new`" in error.hint


def test_a_folder_lists_its_recipes(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(VALID)
    (tmp_path / "a.yml").write_text(VALID)
    error = refused(tmp_path)
    assert error.message == f"{tmp_path} is a folder; expected a recipe file"
    assert error.hint == "It holds: a.yml, b.yaml."


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + VALID.replace("\n", "\r\n").encode())
    assert load_recipe(path).data.path == "owner/name"


def test_json_is_yaml(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text('{"model": {"model_name": "a/b"}, "lora": {"r": 4}, "data": {"path": "c/d"}}')
    assert load_recipe(path).model.model_name == "a/b"


def test_aliases_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(VALID + "training:\n  seed: &s 7\n  data_seed: *s\n")
    assert load_recipe(path).training == {"seed": 7, "data_seed": 7}


def test_a_pipe_or_a_device_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.yaml")
    for path in (tmp_path / "recipe.yaml", Path("/dev/zero")):
        assert refused(path).message == f"{path} is a pipe or a device; expected a recipe file"


def test_numbers_and_texts_that_nothing_can_hold_are_faults_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(VALID + "training:\n  seed: " + "9" * 5000 + '\n  run_name: "\\ud800"\n')
    told = [str(fault) for fault in refused(path).faults]
    assert any("training.seed: found a number of 5,000 digits" in line for line in told), told
    assert any("training.run_name: found U+D800, half of a character" in line for line in told), told
