"""Local paths: beside the recipe first, then under the current folder; what is not there is told with both places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fastft.errors import RecipeError
from fastft.recipe.load import load_recipe
from tests.recipe.conftest import VALID

Write = Callable[[str], Path]


def data(path: str, more: str = "") -> str:
    return VALID.replace("owner/name", path) + more


def fault_of(recipe: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe)
    (fault,) = caught.value.faults
    return str(fault)


@pytest.fixture
def cwd(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.usefixtures("cwd")
def test_a_file_beside_the_recipe(write: Write, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text("{}\n")
    assert load_recipe(write(data("chats.jsonl"))).data.path == str(tmp_path / "chats.jsonl")


def test_a_file_under_the_current_folder(write: Write, cwd: Path) -> None:
    (cwd / "chats.jsonl").write_text("{}\n")
    assert load_recipe(write(data("chats.jsonl"))).data.path == str(cwd / "chats.jsonl")


def test_beside_the_recipe_goes_first(write: Write, cwd: Path, tmp_path: Path) -> None:
    for folder in (cwd, tmp_path):
        (folder / "chats.jsonl").write_text("{}\n")
    assert load_recipe(write(data("chats.jsonl"))).data.path == str(tmp_path / "chats.jsonl")


def test_a_mapping_looks_in_the_current_folder(cwd: Path) -> None:
    (cwd / "chats.jsonl").write_text("{}\n")
    recipe = load_recipe({"model": {"model_name": "a/b"}, "lora": {}, "data": {"path": Path("chats.jsonl")}})
    assert recipe.data.path == str(cwd / "chats.jsonl")


def test_a_missing_file_names_both_places_and_the_nearest(write: Write, cwd: Path, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text("{}\n")
    assert fault_of(write(data("chat.jsonl"))) == (
        'recipe.yaml:6 data.path: there is no file "chat.jsonl"; expected a local .jsonl, .json, .csv, .parquet'
        f" or .arrow file, a folder, a glob, or a Hub id (owner/name)."
        f" Tried {tmp_path / 'chat.jsonl'} and {cwd / 'chat.jsonl'}."
        " Did you mean chats.jsonl?"
    )


@pytest.mark.usefixtures("cwd")
def test_an_override_of_a_recipe_looks_beside_its_file(write: Write, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text("{}\n")
    assert load_recipe(load_recipe(write(VALID)), ["data.path=chats.jsonl"]).data.path == str(tmp_path / "chats.jsonl")


def test_an_absolute_path_is_tried_once(write: Write, tmp_path: Path) -> None:
    assert f"Tried {tmp_path / 'no.csv'}" in fault_of(write(data(str(tmp_path / "no.csv"))))


@pytest.mark.parametrize("path", ["./chats", "~/nowhere/chats", "a/b/c", "chats.json.gz", "a\\b"])
def test_what_looks_like_a_file_is_no_hub_id(write: Write, path: str) -> None:
    assert "there is no file" in fault_of(write(data(path)))


@pytest.mark.parametrize("path", ["mlabonne/FineTome-100k", "HuggingFaceH4/no_robots", "a/b.c"])
def test_a_hub_id_stays(write: Write, path: str) -> None:
    assert load_recipe(write(data(path))).data.path == path


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("alpaca", "named with its owner"),
        ("https://huggingface.co/datasets/mlabonne/FineTome-100k", "Write mlabonne/FineTome-100k"),
        ("hf://datasets/a/b", "Write a/b"),
        ("https://example.org/chats.jsonl", "Download it first"),
    ],
)
def test_what_is_neither_file_nor_hub_id(write: Write, path: str, hint: str) -> None:
    assert hint in fault_of(write(data(path)))


def test_a_folder_of_data(write: Write, tmp_path: Path) -> None:
    sets = tmp_path / "sets"
    sets.mkdir()
    (sets / "notes.txt").write_text("x")
    assert fault_of(write(data("sets"))) == (
        f'recipe.yaml:6 data.path: found "sets", a folder: the folder {sets} holds no data files; expected a local'
        " .jsonl, .json, .csv, .parquet or .arrow file, a folder, a glob, or a Hub id (owner/name)."
        f" {sets} holds notes.txt"
    )
    (sets / "train.jsonl").write_text("{}\n")
    assert load_recipe(write(data("sets"))).data.path == str(sets)
    assert "holds no dev file" in fault_of(write(data("sets", "  split: dev\n")))


def test_a_split_of_a_folder_is_held_out(write: Write, tmp_path: Path) -> None:
    for name in ("train.jsonl", "val.jsonl"):
        (tmp_path / name).write_text("{}\n")
    recipe = load_recipe(write(data(str(tmp_path), "  eval_split: val\n")))
    assert (recipe.data.path, recipe.data.eval_split) == (str(tmp_path), "val")
    assert fault_of(write(data(str(tmp_path), "  eval_split: dev\n"))) == (
        f'recipe.yaml:7 data.eval_split: found "dev": the folder {tmp_path} holds no dev file; expected a file of that'
        f" name in the folder. {tmp_path} holds recipe.yaml, train.jsonl, val.jsonl. data.path is at recipe.yaml:6"
    )
    assert "expected another split" in fault_of(write(data(str(tmp_path), "  eval_split: train\n")))


def test_a_split_is_not_held_out_of_itself(write: Write, tmp_path: Path) -> None:
    """Under two names: the folder's only file is the split a, and what is read where no split has a name."""
    (tmp_path / "a.jsonl").write_text("{}\n")
    assert "whose a.jsonl is trained on" in fault_of(write(data(str(tmp_path), "  eval_split: a\n")))


def test_a_glob(write: Write, cwd: Path, tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text("{}\n")
    assert load_recipe(write(data('"*.jsonl"'))).data.path == str(tmp_path / "*.jsonl")
    assert fault_of(write(data('"*.csv"'))) == (
        'recipe.yaml:6 data.path: no file matches "*.csv"; expected a local .jsonl, .json, .csv, .parquet or .arrow'
        f" file, a folder, a glob, or a Hub id (owner/name). Tried {tmp_path / '*.csv'} and {cwd / '*.csv'}"
    )
    (tmp_path / "c.txt").write_text("x")
    assert "the suffix '.txt' names no known kind" in fault_of(write(data('"*.txt"')))


def test_a_mixture_has_each_of_its_paths_found(write: Write, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    entries = '["a.jsonl", {path: a.jsonl, weight: 2}, owner/name]'
    found = load_recipe(write(data(entries))).data.path
    assert [(part.path, part.weight) for part in found if not isinstance(part, str)] == [
        (str(tmp_path / "a.jsonl"), None),
        (str(tmp_path / "a.jsonl"), 2.0),
        ("owner/name", None),
    ]
    listed = "\n    - a.jsonl\n    - b.jsonl\n    - {path: c.jsonl}\n"
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(data(listed)))
    assert [fault.where for fault in caught.value.faults] == [
        "recipe.yaml:8 data.path[1]",
        "recipe.yaml:9 data.path[2].path",
    ]


def test_held_out_rows_in_a_file(write: Write, tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("{}\n")
    recipe = load_recipe(write(data("train.jsonl", "  eval_split: test.jsonl\n")))
    assert recipe.data.eval_split == str(tmp_path / "test.jsonl")
    assert "there is no file" in fault_of(write(data("train.jsonl", "  eval_split: tst.jsonl\n")))


def test_held_out_rows_in_a_glob_or_folder(write: Write, tmp_path: Path) -> None:
    for name in ("train.jsonl", "held/one.jsonl", "tests/test.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    for text in ("held/*.jsonl", "./held"):
        recipe = load_recipe(write(data("train.jsonl", f"  eval_split: {text}\n")))
        assert recipe.data.eval_split == str(tmp_path / text)
    assert "holds no train file" in fault_of(write(data("train.jsonl", "  eval_split: ./tests\n")))
    assert 'there is no file "held/*.csv"' in fault_of(write(data("train.jsonl", "  eval_split: held/*.csv\n")))


def test_a_chat_template_in_a_file_or_by_name(write: Write, tmp_path: Path) -> None:
    (tmp_path / "my.jinja").write_text("x")
    assert load_recipe(write(data("a/b", "  chat_template: my.jinja\n"))).data.chat_template == str(
        tmp_path / "my.jinja"
    )
    assert load_recipe(write(data("a/b", "  chat_template: chatml\n"))).data.chat_template == "chatml"


@pytest.mark.parametrize(
    ("template", "part"),
    [
        ("mi.jinja", "Did you mean my.jinja?"),
        ("chat-ml", "Did you mean chatml?"),
        ("'{% for m in messages %}{% endfor %}'", "Put the template into a file"),
    ],
)
def test_a_chat_template_that_is_not_there(write: Write, tmp_path: Path, template: str, part: str) -> None:
    (tmp_path / "my.jinja").write_text("x")
    assert part in fault_of(write(data("a/b", f"  chat_template: {template}\n")))


def model(name: str) -> str:
    return VALID.replace("fastft/tiny", name)


def test_a_model_in_a_folder(write: Write, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert load_recipe(write(model("model"))).model.model_name == str(tmp_path / "model")


@pytest.mark.parametrize("name", ["fastft/tiny", "unsloth/Qwen3-4B-Instruct-2507-unsloth-bnb-4bit", "gpt2"])
def test_a_model_on_the_hub_stays(write: Write, name: str) -> None:
    assert load_recipe(write(model(name))).model.model_name == name


def test_the_packaged_model_is_no_folder(write: Write, tmp_path: Path) -> None:
    (tmp_path / "fastft" / "tiny").mkdir(parents=True)
    assert load_recipe(write(VALID)).model.model_name == "fastft/tiny"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("./nowhere", 'there is no file "./nowhere"'),
        ("m.gguf", "A GGUF file cannot be trained"),
        ("https://huggingface.co/unsloth/Qwen3-4B", "Write unsloth/Qwen3-4B"),
        ("Qwen 3", "expected a Hub id"),
    ],
)
def test_a_model_that_is_not_there(write: Write, tmp_path: Path, name: str, part: str) -> None:
    (tmp_path / "m.gguf").write_text("x")
    assert part in fault_of(write(model(name)))


def test_an_output_dir_that_is_a_file(write: Write, cwd: Path) -> None:
    (cwd / "out").write_text("x")
    assert 'output_dir: found "out", a file' in fault_of(write(VALID + "output_dir: out\n"))


@pytest.mark.parametrize("name", ["a\\e[31mb", "a\\nb", "a\\x07", "a\\u2028b"])
def test_an_output_dir_that_a_terminal_would_obey(write: Write, name: str) -> None:
    said = fault_of(write(VALID + f'output_dir: "{name}"\n'))
    assert "which a terminal would obey; expected a name that can be shown" in said
    assert "\x1b" not in said
