"""Names in manifests, indices and folders lead nowhere outside: nothing there is read, uploaded or deleted."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from fastft import train as fastft_train
from fastft.checkpoints import _NEEDED, rotate, seal, whole_checkpoint, why_damaged
from fastft.errors import FastftError, ModelError
from fastft.exporters.hub import _files
from fastft.exporting import export
from fastft.model_files import resolve_model
from fastft.run import Run
from tests.planted import copy_tiny, edit_json, fastft, refused
from tests.small_model import shared_run

_OUTSIDE = ["../../outside", "/etc/passwd", "a/../../outside", "..", ""]


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    copied = tmp_path / "run"
    shutil.copytree(shared_run(tmp_path_factory.getbasetemp()), copied)
    return copied


@pytest.mark.parametrize("name", _OUTSIDE)
def test_a_manifest_that_names_files_elsewhere_is_refused(run: Path, name: str) -> None:
    edit_json(run / "manifest.json", files={name: "0" * 64})
    with pytest.raises(ModelError, match="lies outside its folder"):
        Run.open(run).trained_manifest()


@pytest.mark.parametrize("name", _OUTSIDE)
def test_an_export_that_names_files_elsewhere_is_not_uploaded(run: Path, name: str) -> None:
    folder = run / "exports" / "merged_16bit"
    edit_json(folder / "export.json", files={name: "0" * 64})
    with pytest.raises(FastftError, match="lies outside its folder"):
        _files("merged_16bit", [folder])


def test_a_link_out_of_an_export_is_not_uploaded(run: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = run / "exports" / "merged_16bit"
    (folder / "link.txt").symlink_to(tmp_path / "secret")
    files = json.loads((folder / "export.json").read_text())["files"]
    edit_json(folder / "export.json", files={**files, "link.txt": "0" * 64})
    with pytest.raises(FastftError, match=r"link\.txt leads out of"):
        _files("merged_16bit", [folder])


@pytest.mark.parametrize("name", _OUTSIDE)
def test_a_checkpoint_that_names_files_elsewhere_is_passed_over(tmp_path: Path, name: str) -> None:
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    (tmp_path / "outside").write_text("x")
    for needed in _NEEDED:
        (checkpoint / needed).touch()
    seal(checkpoint, 1)
    assert why_damaged(checkpoint, 1) is None
    manifest = json.loads((checkpoint / "fastft_checkpoint.json").read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    (checkpoint / "fastft_checkpoint.json").write_text(json.dumps(manifest))
    assert whole_checkpoint(tmp_path) is None


@pytest.mark.parametrize("name", ["../outside.safetensors", "/tmp/outside.safetensors"])
def test_an_index_of_weights_that_names_files_elsewhere_is_refused(tiny: Path, tmp_path: Path, name: str) -> None:
    folder = copy_tiny(tiny, tmp_path / "model")
    shutil.move(folder / "model.safetensors", tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    with pytest.raises(ModelError, match="lies outside its folder"):
        resolve_model(str(folder), weights=False)


def test_deleting_follows_no_link(tmp_path: Path) -> None:
    """Rotation, with links where checkpoints would be, and within one."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "checkpoint-1").symlink_to(precious)
    for step in (2, 3):
        made = folder / f"checkpoint-{step}"
        made.mkdir()
        for needed in _NEEDED:
            (made / needed).touch()
        seal(made, step)
        (made / "link").symlink_to(precious)
    rotate(folder, 1, None)
    assert (precious / "file").read_text() == "kept"
    assert not (folder / "checkpoint-2").exists()
    assert (folder / "checkpoint-3").is_dir()


@pytest.mark.slow
def test_what_an_export_puts_away_may_be_a_link(run: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    exports = run / "exports"
    (exports / ".partial-999999").symlink_to(precious)
    shutil.rmtree(exports / "merged_16bit")
    (exports / "merged_16bit").symlink_to(precious)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with contextlib.suppress(FastftError):
            export(run, ["merged_16bit"], verify=False, overwrite=True, console=Console(file=io.StringIO()))
    assert (precious / "file").read_text() == "kept"
    assert sorted(path.name for path in precious.iterdir()) == ["file"]


@pytest.mark.parametrize("name", ["train.log", "metrics.jsonl", "exports", "checkpoints", "exports/merged_16bit"])
def test_a_run_is_not_written_through_a_link(run: Path, tmp_path: Path, name: str) -> None:
    """A run from elsewhere, whose log is somebody's .bashrc."""
    place, precious = run / name, tmp_path / "precious"
    if place.suffix:
        precious.write_text("kept")
        place.unlink(missing_ok=True)
    else:
        precious.mkdir()
        shutil.rmtree(place, ignore_errors=True)
    place.symlink_to(precious)
    for go_on in (Run.open, export, lambda path: fastft_train(path, resume=True)):
        with pytest.raises(ModelError, match=f"{place.name} is a link that leads out of"):
            go_on(run)
    (run / "manifest.json").unlink()
    with pytest.raises(ModelError, match="is a link that leads out of"):
        Run.unfinished(run)
    assert precious.read_text() == "kept" if place.suffix else list(precious.iterdir()) == []


def test_links_within_a_run_and_to_it_are_its_own(run: Path, tmp_path: Path) -> None:
    (run / "latest").symlink_to(run / "exports")
    (tmp_path / "linked").symlink_to(run)
    assert Run.open(run).finished
    assert Run.open(tmp_path / "linked").finished


_HANGING = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_a_template_in_a_gguf_file_is_tried_before_llama_cpp_has_it(run: Path, tmp_path: Path) -> None:
    """llama.cpp renders without limits."""
    from fastft.exporters.converter import import_llama_cpp
    from fastft.llamacpp import GGUFModel

    gguf = import_llama_cpp("gguf")
    source = run / "exports" / "gguf-f16" / "model-f16.gguf"
    reader = gguf.GGUFReader(str(source))
    plain = reader.fields["tokenizer.chat_template"].contents()
    hanging = _HANGING.ljust(len(plain.encode()))[: len(plain.encode())] if len(_HANGING) <= len(plain.encode()) else ""
    assert hanging, "the template has room for the planted one, so that nothing else in the file moves"
    path = tmp_path / "planted.gguf"
    path.write_bytes(source.read_bytes().replace(plain.encode(), hanging.encode()))
    with GGUFModel(path) as model, pytest.raises(ModelError, match="in it was stopped: it takes more"):
        model.chat([{"role": "user", "content": "Hi"}], max_tokens=4)
    refused(fastft("serve", path, "--port", "0", cwd=tmp_path), "the chat template in it was stopped")
