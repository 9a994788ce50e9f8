"""Small files that anyone may have made: each fault is one clear error that names the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fastft.errors import ExportError, ModelError, RecipeError
from fastft.reading import read_json, read_json_lines, read_yaml, require_inside
from fastft.run_files import read_export, read_manifest, read_weight_index


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(5 << 30)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda _: None, "No such file"),
    "a folder": (lambda path: path.mkdir(), "a folder"),
    "a pipe": (os.mkfifo, "no plain file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "no plain file"),
    "links in a circle": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "5 GB of holes": (_sparse, "5,368,709,120 bytes are more"),
    "no UTF-8": (lambda path: path.write_bytes(b"\xff{}"), "utf-8"),
    "cut short": (lambda path: path.write_text('{"a": '), "not valid JSON"),
    "too deep": (lambda path: path.write_text("[" * 100_000), "recursion"),
    "a number of 5,000 digits": (lambda path: path.write_text('{"a": ' + "9" * 5000 + "}"), "4300 digits"),
    "half a character": (lambda path: path.write_text('{"a": "\\ud800"}'), "surrogates"),
    "a list": (lambda path: path.write_text("[1]"), "holds a list, not an object"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_read_is_one_error_with_the_name(tmp_path: Path, kind: str) -> None:
    make, words = BROKEN[kind]
    make(tmp_path / "x.json")
    with pytest.raises(ModelError, match=words) as caught:
        read_json(tmp_path / "x.json", ModelError, "hint")
    assert str(tmp_path / "x.json") in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint == "hint"


def test_a_pair_of_surrogates_is_a_character(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": "\\ud83d\\ude00"}')
    assert read_json(tmp_path / "x.json", ModelError) == {"a": "😀"}


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(ModelError, match=r"x\.jsonl:3 can't be read"):
        read_json_lines(tmp_path / "x.jsonl", ModelError)


def test_aliases_in_a_run_s_recipe_are_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a: &a [1, 1]\nb: [*a, *a]\n")
    with pytest.raises(RecipeError, match="aliases"):
        read_yaml(tmp_path / "recipe.yaml", RecipeError)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\0b", ""])
def test_paths_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="lies outside"):
        require_inside(["fine", name], "manifest.json", ModelError)
    require_inside(["a/b.c", "..a", "x..y/z"], "manifest.json", ModelError)


BASE = {"model_name": "m", "commit": None, "files": {}}
MANIFEST = {"model": {"model_name": "m", "revision": None, "base": BASE}, "files": {"adapter/x": "0"}}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"files": ["adapter/x"]}, "files: "),
        ({"files": {"../../x": "0"}}, "lies outside"),
        ({"files": {"adapter/x": 1}}, "files.adapter/x: "),
        ({"model": {"model_name": 3, "revision": None, "base": BASE}}, "model.model_name: "),
        ({"model": {"model_name": "m", "revision": None, "base": {**BASE, "more": 1}}}, "model.base.more: "),
        ({"model": {"revision": None, "base": BASE}}, "lacks model.model_name"),
        ({"lineage": [3]}, "lineage.0: "),
        ({"method": None}, "method: "),
    ],
)
def test_a_manifest_with_another_type_says_where(tmp_path: Path, changed: dict[str, object], words: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(MANIFEST))
    assert read_manifest(path) == MANIFEST
    path.write_text(json.dumps({**MANIFEST, **changed}))
    with pytest.raises(ModelError) as caught:
        read_manifest(path)
    assert words in caught.value.message


def test_an_export_and_an_index_that_point_outside_are_refused(tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(json.dumps({"made_from": {}, "files": {"../x": "0"}}))
    with pytest.raises(ExportError, match="lies outside"):
        read_export(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"weight_map": {"a": "/etc/passwd"}}))
    with pytest.raises(ModelError, match="lies outside"):
        read_weight_index(tmp_path / "index.json", ModelError)
