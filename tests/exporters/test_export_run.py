"""Whole exports, through the worker process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fastft.base_identity import identify
from fastft.errors import ExportError, ModelError
from fastft.exporters.process import staging_folder
from fastft.exporters.source import Trained
from fastft.exporters.workbench import Target, disk_needed, require_space
from fastft.files import folder_hashes, sha256_of
from fastft.recipe.schema import ExportSection
from fastft.run import Run
from tests.exporters.making import make
from tests.exporters.models import save_adapter

MERGED = ExportSection.model_validate({"formats": "merged_16bit", "verify": False})
BOTH = ExportSection.model_validate(
    {"formats": ["gguf", "merged_16bit"], "quantization_method": ["q8_0", "bf16", "q4_k_m"], "verify": False}
)
BF16 = {"formats": ["gguf"], "quantization_method": ["bf16"]}


def make_run(folder: Path, tiny: Path) -> Path:
    save_adapter(tiny, folder / "adapter", tiny, r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])
    (folder / "recipe.yaml").write_text("method: sft\n")
    model = {"model_name": "fastft/tiny", "revision": None, "base": identify("fastft/tiny").as_dict()}
    (folder / "manifest.json").write_text(json.dumps({"method": "sft", "model": model, "files": {}}))
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    run = make_run(tmp_path_factory.mktemp("exported") / "run", tiny)
    stages: list[tuple[str, int, int]] = []
    folders = make(run, BOTH, on_progress=lambda *event: stages.append(event))
    names = ["merged_16bit", "gguf-q8_0", "gguf-bf16", "gguf-q4_k_m"]
    assert folders == [run / "exports" / name for name in names]
    assert sorted(path.name for path in (run / "exports").iterdir()) == sorted(names)
    assert list(dict.fromkeys(stage for stage, _, _ in stages)) == [
        "find the base model", "merge", "convert to GGUF", "quantize gguf-q8_0", "quantize gguf-q4_k_m",
    ]  # fmt: skip
    assert stages.count(("convert to GGUF", 1, 1)) == 1
    return run


@pytest.mark.slow
def test_the_manifest_tells_what_it_was_made_of(exported: Path) -> None:
    folder = exported / "exports" / "gguf-q4_k_m"
    manifest = json.loads((folder / "export.json").read_text())
    assert manifest["made_from"]["model_name"] == "fastft/tiny"
    assert manifest["how"]["quantized_from"] == "bf16"
    files = {path.name for path in folder.iterdir()}
    assert files == {"export.json", "Modelfile", "model-q4_k_m.gguf"}
    assert set(manifest["files"]) == files - {"export.json"}
    for name, sha256 in manifest["files"].items():
        assert sha256_of(folder / name) == sha256


@pytest.mark.slow
def test_an_export_of_the_same_weights_is_kept(exported: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in exported.rglob("*.gguf")}
    make(exported, BOTH)
    assert {path: path.stat().st_mtime_ns for path in exported.rglob("*.gguf")} == before


@pytest.mark.slow
def test_an_export_of_other_weights_is_not_overwritten_unasked(exported: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(exported, run)
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    (run / "adapter" / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 1}))
    weights = run / "exports" / "merged_16bit" / "model.safetensors"
    before = sha256_of(weights)
    with pytest.raises(ExportError, match="merged_16bit is there and was made from other weights") as error:
        make(run, MERGED)
    assert f"fastft export {run} --format merged_16bit --overwrite" in error.value.hint
    assert sha256_of(weights) == before
    half = ExportSection.model_validate({"formats": ["merged_16bit"], "dtype": "float16", "verify": False})
    with pytest.raises(ExportError, match=r"is there and was made in bfloat16; float16 is asked for") as error:
        make(run, half)
    assert "--format merged_16bit --dtype float16 --overwrite" in error.value.hint
    make(run, MERGED, overwrite=True)
    assert sha256_of(weights) != before


@pytest.mark.slow
def test_an_export_that_lacks_a_file_is_neither_kept_nor_built_upon(exported: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(exported, run)
    (run / "exports" / "merged_16bit" / "tokenizer.json").unlink()
    with pytest.raises(ExportError, match=r"merged_16bit is there and lacks tokenizer\.json"):
        make(run, MERGED)
    (folder,) = make(run, ExportSection.model_validate({**BF16, "verify": False}), overwrite=True)
    assert sha256_of(folder / "model-bf16.gguf") == sha256_of(exported / "exports" / "gguf-bf16" / "model-bf16.gguf")


@pytest.mark.slow
def test_exports_hold_nothing_of_where_they_were_made(exported: Path, tmp_path: Path) -> None:
    """So that two runs which learned the same have the same files."""
    moved = shutil.copytree(exported, tmp_path / "elsewhere" / "other-name")
    shutil.rmtree(moved / "exports")
    make(moved, BOTH)
    mine, other = (folder_hashes(run / "exports") for run in (moved, exported))
    assert {name: digest for name, digest in mine.items() if not name.endswith("export.json")} == {
        name: digest for name, digest in other.items() if not name.endswith("export.json")
    }


@pytest.mark.parametrize(
    ("model_name", "label"),
    [
        ("fastft/tiny", "tiny-sft"),
        ("unsloth/Qwen3-4B-Instruct-2507-unsloth-bnb-4bit", "Qwen3-4B-Instruct-2507-sft"),
        ("/models/llama-bnb-4bit", "llama-sft"),
    ],
)
def test_the_model_and_the_method_name_an_export(model_name: str, label: str, exported: Path, tmp_path: Path) -> None:
    run = shutil.copytree(exported, tmp_path / "run", ignore=shutil.ignore_patterns("exports"))
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["model"]["model_name"] = model_name
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert Trained.of_run(Run(run)).source.label == label


@pytest.mark.slow
def test_any_adapter_folder_can_be_exported(exported: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(exported / "adapter", adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "fastft/tiny"}))
    (folder,) = make(adapter, MERGED)
    ours = (folder / "model.safetensors").read_bytes()
    assert ours == (exported / "exports" / "merged_16bit" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_leftovers_of_killed_processes_are_removed(exported: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(exported, run)
    ended = subprocess.Popen(["true"])
    ended.wait()
    stale = staging_folder(run / "exports", ended.pid)
    live = run / "exports" / f"{staging_folder(run / 'exports', os.getpid()).name}-proof"
    for folder in (stale, live):
        folder.mkdir()
        (folder / "half.gguf").write_bytes(b"half")
    make(run, BOTH)
    assert not stale.exists()
    assert (live / "half.gguf").exists()


def test_disk_space_is_estimated_before_anything_is_written(tmp_path: Path) -> None:
    targets = [Target("merged_16bit"), Target("gguf", "q8_0"), Target("gguf", "bf16")]
    # the converted file is the bf16 one, and there all the same where only q8_0 is asked for
    both, one = (disk_needed(8_000_000_000, 0, some, "bf16", merged=True) for some in (targets, targets[:2]))
    assert both == one == 24.6e9
    assert disk_needed(8_000_000_000, 0, targets[:1], "bf16", merged=False) == 16e9
    assert disk_needed(8_000_000_000, 5_000, [Target("adapter")], "bf16", merged=False) == 5_000
    with pytest.raises(ExportError, match=r"of disk at .* are free"):
        require_space(tmp_path, 1 << 60)


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("method: sft\n")
    with pytest.raises(ModelError, match="has not finished training"):
        make(tmp_path, MERGED)
    assert not (tmp_path / "exports").exists()


def test_an_adapter_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ExportError, match=r"is no PEFT adapter: it lacks adapter_model\.safetensors"):
        make(tmp_path, MERGED)


@pytest.mark.slow
def test_a_folder_that_can_t_be_written_is_told(exported: Path, tmp_path: Path) -> None:
    """A file stands where the work is done; permissions would not stop root."""
    run = tmp_path / "run"
    shutil.copytree(exported, run, ignore=shutil.ignore_patterns("exports"))
    (run / "exports").mkdir()
    (run / "exports" / "merged_16bit.old").write_text("a file, not a folder")
    (run / "exports" / "merged_16bit").mkdir()
    with pytest.raises(ExportError, match=r"merged_16bit has no export\.json") as caught:
        make(run, MERGED)
    assert "--overwrite" in caught.value.hint
    (run / "exports" / "merged_16bit.old").write_text("a file, not a folder")
    with pytest.raises(ExportError, match="Not a directory") as caught:
        make(run, MERGED, overwrite=True)
    assert "export again" in caught.value.hint
    assert str(run / "train.log") in caught.value.hint
