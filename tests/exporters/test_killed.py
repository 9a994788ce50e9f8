"""kill -9 at random moments, and a disk that fills: what stands at its place is whole, and the next call finishes.

`FASTFT_KILLS=50 uv run pytest tests/exporters/test_killed.py` kills as often as that.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fastft.errors import ExportError
from fastft.files import folder_hashes, sha256_of
from fastft.recipe.schema import ExportSection
from tests.exporters.making import make
from tests.exporters.models import save_adapter

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("FASTFT_KILLS", "3"))
TYPES = ["q8_0", "q4_k_m", "f16"]
EXPORTS = ["merged_16bit", "adapter", *(f"gguf-{kind}" for kind in TYPES)]
SECTION = ExportSection.model_validate(
    {"formats": ["merged_16bit", "adapter", "gguf"], "quantization_method": TYPES, "verify": False}
)
COMMAND = ["export", "--format", "merged_16bit", "--format", "adapter", "--no-verify"]
COMMAND += [part for kind in TYPES for part in ("--format", "gguf", "--quantization", kind)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> tuple[Path, dict[str, str], float]:
    """(an adapter, hashes of its exports' weights made undisturbed, the seconds it was at work for that)."""
    folder = save_adapter(tiny, tmp_path_factory.mktemp("killed") / "lora", tiny, r=4, target_modules=["q_proj"])
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "fastft/tiny"}))
    started: list[float] = []
    make(folder, SECTION, on_progress=lambda *_: started.append(time.perf_counter()))
    seconds = time.perf_counter() - started[0]
    hashes = _weights(folder)
    shutil.rmtree(folder / "exports")
    return folder, hashes, seconds


@pytest.fixture
def exported(whole: tuple[Path, dict[str, str], float], tmp_path: Path) -> Path:
    """The adapter in a folder of this test's own, with all its exports."""
    folder = Path(shutil.copytree(whole[0], tmp_path / "lora"))
    make(folder, SECTION)
    return folder


def _weights(folder: Path) -> dict[str, str]:
    """All files of the exports but export.json, which holds how long it took."""
    hashes = folder_hashes(folder / "exports")
    return {name: digest for name, digest in hashes.items() if "/" in name and not name.endswith("export.json")}


def _check_whole(exports: Path) -> set[str]:
    """Names of the exports at their places, each of which must be as its export.json says."""
    found = {path.name for path in exports.glob("*") if path.is_dir() and not path.name.startswith(".")}
    for name in found:
        if name.endswith(".old"):  # one that gives way, and goes back if nothing took its place
            continue
        files = json.loads((exports / name / "export.json").read_text())["files"]
        assert files, name
        for file, digest in files.items():
            assert sha256_of(exports / name / file) == digest, (name, file)
    return found


def _export_and_kill(folder: Path, moment: float, whom: str, *more: str) -> bool:
    """Start `fastft export` and kill it, its worker, or both `moment` seconds after it began to write.

    Returns whether it was at work then: on a machine that has become faster it may have finished.
    """
    command = [sys.executable, "-m", "fastft", *COMMAND[:1], str(folder), *COMMAND[1:], *more]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not _at_work(folder):
            time.sleep(0.01)
        time.sleep(moment)
        if process.poll() is not None or not _at_work(folder):
            process.communicate()
            return False
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        chosen = {"worker": children, "both": [str(process.pid), *children], "parent": [str(process.pid)]}[whom]
        for pid in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _, said = process.communicate()
        if whom == "worker" and process.returncode:
            assert "ended unexpectedly (killed" in " ".join(said.split())
    return True


def _at_work(folder: Path) -> bool:
    return any((folder / "exports").glob(".partial-*"))


def test_killed_at_any_moment_nothing_half_stands_and_the_next_call_finishes(
    whole: tuple[Path, dict[str, str], float], tmp_path: Path
) -> None:
    adapter, hashes, seconds = whole
    choose = random.Random(2026)
    hit, attempt, states = 0, 0, set()
    for attempt in range(4 * KILLS):
        folder = tmp_path / str(attempt) / "lora"  # the name goes into GGUF files
        shutil.copytree(adapter, folder)
        struck = _export_and_kill(folder, choose.uniform(0, seconds), choose.choice(["worker", "both", "parent"]))
        hit += struck
        exports = folder / "exports"
        standing = _check_whole(exports)
        if struck:
            states.add(len(standing))
            make(folder, SECTION)
        assert _check_whole(exports) == set(EXPORTS)
        assert [path.name for path in exports.iterdir() if path.name.startswith(".")] == []
        assert _weights(folder) == hashes
        shutil.rmtree(folder)
        if hit == KILLS:
            break
    assert hit == KILLS
    print(f"{hit} kills at work in {attempt + 1} attempts, with {sorted(states)} of {len(EXPORTS)} exports in place")


def test_killed_while_replacing_the_old_export_or_the_new_one_stands(
    whole: tuple[Path, dict[str, str], float], exported: Path
) -> None:
    _, hashes, seconds = whole
    choose = random.Random(7)
    for _ in range(max(2, KILLS // 5)):
        _export_and_kill(exported, choose.uniform(0, seconds), "both", "--overwrite")
        _check_whole(exported / "exports")
        make(exported, SECTION)
        assert _check_whole(exported / "exports") == set(EXPORTS)
        assert _weights(exported) == hashes


def test_an_export_that_gave_way_to_nothing_goes_back(
    whole: tuple[Path, dict[str, str], float], exported: Path
) -> None:
    place = exported / "exports" / "merged_16bit"
    written = place.joinpath("model.safetensors").stat().st_mtime_ns
    place.rename(place.with_name("merged_16bit.old"))
    make(exported, SECTION)
    assert place.joinpath("model.safetensors").stat().st_mtime_ns == written
    assert _weights(exported) == whole[1]


def test_two_exports_into_one_folder_do_not_meet(whole: tuple[Path, dict[str, str], float], tmp_path: Path) -> None:
    adapter, hashes, _ = whole
    folder = tmp_path / "lora"
    shutil.copytree(adapter, folder)
    command = [sys.executable, "-m", "fastft", *COMMAND[:1], str(folder), *COMMAND[1:]]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, complaint = process.communicate()
        assert process.returncode == 0 or "Another process is exporting into" in complaint
    assert _check_whole(folder / "exports") == set(EXPORTS)
    assert _weights(folder) == hashes


@pytest.mark.parametrize("stage", ["merge", "convert to GGUF", "quantize gguf-q8_0", "quantize gguf-q4_k_m"])
def test_a_disk_that_fills_in_the_middle_of(
    whole: tuple[Path, dict[str, str], float], small_disk: Path, stage: str
) -> None:
    adapter, hashes, _ = whole
    folder, filler = small_disk / "lora", small_disk / "filler"
    shutil.copytree(adapter, folder)
    lock = threading.Lock()

    def fill(now: str, *_: int) -> None:
        with lock:
            if now == stage and not filler.exists():
                _fill_disk(filler)

    with pytest.raises(ExportError, match="became full") as caught:
        make(folder, SECTION, on_progress=fill)
    assert re.match(r"Nothing half-written was left; what is whole is kept", caught.value.hint)
    _check_whole(folder / "exports")
    assert [path.name for path in (folder / "exports").iterdir() if path.name.startswith(".")] == []
    filler.unlink()
    make(folder, SECTION)
    assert _check_whole(folder / "exports") == set(EXPORTS)
    assert _weights(folder) == hashes


def test_a_disk_too_small_is_told_before_anything_is_written(
    whole: tuple[Path, dict[str, str], float], small_disk: Path
) -> None:
    folder = Path(shutil.copytree(whole[0], small_disk / "lora"))
    (folder / "exports").mkdir()
    _fill_disk(small_disk / "filler")
    with pytest.raises(ExportError, match=r"need [\d.]+ MB of disk"):
        make(folder, SECTION)
    assert _check_whole(folder / "exports") == set()


def _fill_disk(filler: Path) -> None:
    with filler.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(50_000))
