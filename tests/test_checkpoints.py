"""Checkpoints are whole or passed over: every way to damage one is found, and told."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from fastft.checkpoints import MANIFEST, clear, rotate, seal, step_of, whole_checkpoint, why_damaged
from fastft.errors import TrainingError
from fastft.resume import say_where
from fastft.run import Run

FILES = (
    "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "fastft_state.pt",
    "adapter_model.safetensors",
)  # fmt: skip


def _checkpoint(folder: Path, step: int, best: int | None = None) -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    for name in FILES:
        (made / name).write_bytes(random.Random(f"{name}{step}").randbytes(2000))
    named = f"/where/it/was/trained/checkpoint-{best}" if best else None
    (made / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": named}) + " " * 900)
    seal(made, step)
    return made


def _flip(name: str, at: int) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        content = bytearray((checkpoint / name).read_bytes())
        content[at % len(content)] ^= 0x10
        (checkpoint / name).write_bytes(bytes(content))

    return damage


def _cut(name: str, share: float) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        content = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(content[: int(len(content) * share)])

    return damage


def _another_step(checkpoint: Path) -> None:
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    (checkpoint / MANIFEST).write_text(json.dumps(manifest | {"step": 99}))


DAMAGES: dict[str, Callable[[Path], object]] = {
    **{f"{name} is gone": lambda folder, name=name: (folder / name).unlink() for name in (*FILES, MANIFEST)},
    **{f"{name} is empty": lambda folder, name=name: (folder / name).write_bytes(b"") for name in (*FILES, MANIFEST)},
    **{f"{name} is cut to {share:.0%}": _cut(name, share) for name in (*FILES, MANIFEST) for share in (0.1, 0.5, 0.99)},
    **{f"{name}: byte {at} flipped": _flip(name, at) for name in FILES for at in (0, 777, -1)},
    **{f"{name} grew": lambda folder, name=name: (folder / name).open("ab").write(b"x") for name in FILES},
    f"{MANIFEST} is of another step": _another_step,
    f"{MANIFEST} is a list": lambda folder: (folder / MANIFEST).write_text("[]"),
    f"{MANIFEST} names no files": lambda folder: (folder / MANIFEST).write_text('{"step": 20, "files": {}}'),
    "swapped files": lambda folder: shutil.copy(folder / FILES[1], folder / FILES[2]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(damage: str, tmp_path: Path) -> None:
    before, damaged = _checkpoint(tmp_path, 10), _checkpoint(tmp_path, 20)
    assert whole_checkpoint(tmp_path) == damaged
    DAMAGES[damage](damaged)
    told: list[str] = []
    assert whole_checkpoint(tmp_path, told.append) == before
    assert len(told) == 1
    assert str(damaged) in told[0]


def test_there_are_many_ways() -> None:
    assert len(DAMAGES) >= 50


def test_files_outside_are_not_read(tmp_path: Path) -> None:
    made = _checkpoint(tmp_path / "run", 10)
    manifest = json.loads((made / MANIFEST).read_text())
    manifest["files"]["../../secret"] = {"bytes": 1, "sha256": "0"}
    (made / MANIFEST).write_text(json.dumps(manifest))
    assert "lies outside" in (why_damaged(made, 10) or "")


def test_the_newest_is_by_step_and_not_by_clock(tmp_path: Path) -> None:
    _checkpoint(tmp_path, 100)
    newest = _checkpoint(tmp_path, 1000)
    _checkpoint(tmp_path, 20)
    assert whole_checkpoint(tmp_path) == newest
    assert step_of(newest) == 1000
    assert step_of(None) == 0


def test_old_ones_go_only_once_a_newer_one_is_whole(tmp_path: Path) -> None:
    made = [_checkpoint(tmp_path, step) for step in (10, 20, 30)]
    _flip("optimizer.pt", 5)(made[2])
    rotate(tmp_path, 1, best=None)
    assert all(path.is_dir() for path in made)
    rotate(tmp_path, 2, best=None)
    assert [path.is_dir() for path in made] == [False, True, True]


def test_a_checkpoint_needs_the_best_one_it_names(tmp_path: Path) -> None:
    first, best, newest = (_checkpoint(tmp_path, step, best) for step, best in ((10, None), (20, 20), (30, 20)))
    assert whole_checkpoint(tmp_path) == newest
    _flip("adapter_model.safetensors", 7)(best)
    told: list[str] = []
    assert whole_checkpoint(tmp_path, told.append) == first
    assert told == [
        f"{newest} is damaged and passed over: the best one of the run by then was checkpoint-20, and "
        "adapter_model.safetensors was changed since it was written",
        f"{best} is damaged and passed over: adapter_model.safetensors was changed since it was written",
    ]
    shutil.rmtree(best)
    assert whole_checkpoint(tmp_path) == first


def test_those_passed_over_push_none_out(tmp_path: Path) -> None:
    """A run that went on from step 10 reaches step 20: the ones of 30 and 40 are no reason to delete those."""
    made = [_checkpoint(tmp_path, step) for step in (5, 10, 20, 30, 40)]
    rotate(tmp_path, 2, best=None, reached=20)
    assert [path.is_dir() for path in made] == [False, True, True, True, True]


def test_what_a_killed_process_had_no_time_for_is_done_by_the_next(tmp_path: Path) -> None:
    """Killed after the last checkpoint was put in its place: no other one will delete the old ones."""
    made = [_checkpoint(tmp_path, step, best=10) for step in (10, 20, 30, 40)]
    (tmp_path / ".partial" / "checkpoint-40").mkdir(parents=True)
    _flip("optimizer.pt", 5)(made[3])
    assert whole_checkpoint(tmp_path) == made[2]
    clear(tmp_path, 1, made[2])
    assert [path.is_dir() for path in made] == [True, False, True, True]
    assert not (tmp_path / ".partial").exists()
    clear(tmp_path, None, made[2])
    clear(tmp_path / "none", 1, None)
    assert [path.is_dir() for path in made] == [True, False, True, True]


def test_the_best_one_stays(tmp_path: Path) -> None:
    made = [_checkpoint(tmp_path, step) for step in (10, 20, 30)]
    rotate(tmp_path, 1, best=str(made[0]))
    assert [path.is_dir() for path in made] == [True, False, True]


def test_a_file_that_its_manifest_does_not_name_is_no_part_of_a_checkpoint(tmp_path: Path) -> None:
    made = _checkpoint(tmp_path, 3)
    (made / "pytorch_model.bin").write_bytes(b"planted")
    assert why_damaged(made, 3) == f"it holds pytorch_model.bin, which {MANIFEST} doesn't name"


@pytest.mark.parametrize("insists", [True, False])
def test_where_a_run_goes_on_is_said_and_hours_are_not_taken_again_unasked(insists: bool, tmp_path: Path) -> None:
    run, out = Run(tmp_path), io.StringIO()
    console = Console(file=out, width=300)
    say_where(run, console, "", insists=insists)
    _checkpoint(run.checkpoints, 10)
    say_where(run, console, "died at step 12: killed", insists=insists)
    (run.checkpoints / "checkpoint-10" / "optimizer.pt").unlink()
    if insists:
        with pytest.raises(TrainingError, match="is whole, so there is no step to go on from"):
            say_where(run, console, "", insists=True)
    else:
        say_where(run, console, "", insists=False)
    said = out.getvalue().splitlines()
    gone = [said.pop(2) for _ in range(3)]
    assert gone == [
        f"! {tmp_path}/start.json is gone: nothing tells whether the base model is the one the run began with",
        f"! {tmp_path}/audit.json is gone: nothing tells whether the data set is the one the run began with",
        f"! {tmp_path}/metrics.jsonl is gone, with what was logged until step 10",
    ]
    assert said[0] == "beginning at the first step: there is no checkpoint"
    assert said[1] == "going on from step 10 (checkpoint-10); it died at step 12: killed"
    assert said[2].endswith("checkpoint-10 is damaged and passed over: optimizer.pt is missing")
    assert said[3:] == ([] if insists else ["! no checkpoint is whole: beginning again at the first step"])
