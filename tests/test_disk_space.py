"""What a full or unwritable disk is told as, and runs that have no room are refused before they begin."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from fastft import disk_space
from fastft.disk_space import disk_told, in_words, is_full, require_parts
from fastft.errors import RecipeError, TrainingError
from fastft.planning.disk import NEXT, require_disk
from fastft.run import Run
from tests.short_runs import recipe_of, train, write_chats

GB = 10**9


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def _free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(10**12, 0, size))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_the_system_and_libraries_say_that_a_disk_is_full(error: Exception, tmp_path: Path) -> None:
    assert is_full(error, tmp_path)
    with pytest.raises(TrainingError, match=r"the disk is full, [\d.,]+ [MG]B are free"), disk_told(tmp_path):
        raise error


def test_an_archive_that_could_not_be_written_is_a_full_disk_where_little_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")
    assert not is_full(error, tmp_path)
    _free(monkeypatch, 1000)
    assert is_full(error, tmp_path)


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    for error in (ValueError("shape"), RecipeError("a fault"), OSError(errno.ENOENT, "No such file", "x")):
        with pytest.raises(type(error)) as found, disk_told(tmp_path):
            raise error
        assert found.value is error


def test_a_folder_that_takes_no_files_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=f"{tmp_path}/a can't be written: Read-only"), disk_told(tmp_path):
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / "a"))


def test_folders_of_one_disk_are_taken_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _free(monkeypatch, 5 * GB)
    parts = {"checkpoints": (tmp_path / "a" / "b", 3 * GB), "exports": (tmp_path, 2 * GB)}
    require_parts(parts)
    parts["adapter"] = (tmp_path, GB)
    with pytest.raises(TrainingError) as found:
        require_parts(parts)
    for told in ("about 6.0 GB", "5.0 GB are free", "checkpoints 3.0 GB, exports 2.0 GB, adapter 1.0 GB"):
        assert told in found.value.message
    assert "Free 1.0 GB" in found.value.hint


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no second file system")
def test_each_disk_has_its_own_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("one file system")
    room = {tmp_path.stat().st_dev: 10 * GB, Path("/dev/shm").stat().st_dev: GB}
    monkeypatch.setattr(disk_space, "free_disk", lambda folder: room[folder.stat().st_dev])
    require_parts({"checkpoints": (tmp_path, 9 * GB), "exports": (Path("/dev/shm"), GB)})
    with pytest.raises(TrainingError, match=r"about 2.0 GB of disk will be needed at /dev/shm and 1.0 GB are free"):
        require_parts({"checkpoints": (tmp_path, 2 * GB), "exports": (Path("/dev/shm"), 2 * GB)})


def test_what_a_run_has_is_not_needed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    disk = {"checkpoints": 2 * GB, NEXT: GB, "adapter": GB, "export merged_16bit": 4 * GB}
    _free(monkeypatch, 6_200_000_000)
    with pytest.raises(TrainingError, match=r"about 7\.0 GB"):
        require_disk(disk, run)  # the next checkpoint has room where the export will be
    (run.checkpoints / "checkpoint-1").mkdir(parents=True)
    with (run.checkpoints / "checkpoint-1" / "optimizer.pt").open("wb") as file:
        file.truncate(GB)  # takes no room
    require_disk(disk, run)
    run.manifest_path.write_text("{}")
    _free(monkeypatch, 3 * GB)
    with pytest.raises(TrainingError, match=r"about 4\.0 GB"):
        require_disk(disk, run)  # trained: the export alone
    _free(monkeypatch, 5 * GB)
    require_disk(disk, run)


def test_a_run_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(write_chats(tmp_path / "rows.jsonl"), export={"formats": ["merged_16bit"]})
    _free(monkeypatch, 20_000_000)
    with pytest.raises(TrainingError, match=r"will be needed at .*checkpoints .* MB.*export merged_16bit 5.* MB"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sizes_are_told_as_people_do() -> None:
    assert [in_words(size) for size in (0, 123_456, 1_234_567_890)] == ["0.0 MB", "0.1 MB", "1.2 GB"]
    assert json.dumps(in_words(999_999_999)) == '"1,000.0 MB"'
