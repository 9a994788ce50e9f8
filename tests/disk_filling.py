"""Runs on small disks that fill: in a mount namespace of its own this takes a job a line and answers what was found.

    unshare -Urm python -m tests.disk_filling        a line: {"recipe": …, "folder": …, "free": …, "when": …}

The disk is a tmpfs at `folder`. A filler takes its space: all but `free` bytes from the start, or, with `when`, at a
moment of the run: after so many seconds (a number), or once a path below the folder is there (a pattern). Making room
is to delete the filler, or with `inodes` to allow for more files.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from fastft.checkpoints import step_of, whole_checkpoint, why_damaged
from fastft.files import folder_hashes
from tests.warm_processes import Warm, warm_processes

SIZE = 320 << 20  # bytes of the disk: no plan of the test's recipe reaches it
_PIECE = 4 << 20


def main() -> None:
    with warm_processes() as warm:
        for line in sys.stdin:
            print(json.dumps(fill(warm, **json.loads(line))), flush=True)


def fill(warm: Warm, recipe: str, folder: str, **spec: Any) -> dict[str, Any]:
    """What a run on a disk that fills left, and what became of it once there was room."""
    disk, options = Path(folder), f"size={SIZE}" + (f",nr_inodes={spec['inodes']}" if "inodes" in spec else "")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        return _filled(warm, recipe, disk, spec)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _filled(warm: Warm, recipe: str, disk: Path, spec: dict[str, Any]) -> dict[str, Any]:
    (disk / "tmp").mkdir()
    filler, seen, run = Filler(disk, int(spec.get("free", 0))), [0], disk / "run"
    code, said = _run(warm, recipe, disk, filler, spec.get("when"), seen, full="inodes" not in spec)
    found: dict[str, Any] = {"code": code, "said": said, "faults": faults_of(run), "filled": filler.filled}
    if step_of(whole_checkpoint(run / "checkpoints")) < max(seen):
        found["faults"].append(f"checkpoint {max(seen)} was whole and is gone")
    filler.remove()
    if "inodes" in spec:
        subprocess.run(["mount", "-o", f"remount,size={SIZE},nr_inodes=100000", str(disk)], check=True)
    if code:
        more = ["--resume"] if (run / "recipe.yaml").is_file() else []
        code, said = train(warm, recipe, run, *more)
    found["again"] = {"code": code, "said": said, "runs": len(list(disk.glob("run*")))}
    return found | {"results": results_of(run)}


class Filler:
    """Takes the space of the disk at `folder`, all but `free` bytes."""

    def __init__(self, folder: Path, free: int) -> None:
        self.path = folder / "filler"
        self.free = free
        self.filled = False

    def fill(self) -> None:
        with self.path.open("wb") as file:
            piece = bytes(_PIECE)
            room = os.statvfs(self.path.parent)
            left = room.f_bavail * room.f_frsize - self.free
            with contextlib.suppress(OSError):  # the run writes at the same time
                while left > 0:
                    left -= file.write(piece[:left])
                    file.flush()
        self.filled = True

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _run(
    warm: Warm, recipe: str, disk: Path, filler: Filler, when: Any, seen: list[int], *, full: bool
) -> tuple[int, str]:
    """(exit code, what the terminal said) of the training during which the disk fills; `seen` gets its checkpoints."""
    if when is None and full:
        filler.fill()
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(ended, disk, filler, when, seen))
    watcher.start()
    try:
        return train(warm, recipe, disk / "run", "--new")
    finally:
        ended.set()
        watcher.join()


def _watch(ended: threading.Event, disk: Path, filler: Filler, when: Any, seen: list[int]) -> None:
    """Fill the disk once it is time; note the checkpoints that were at their place until then."""
    began = time.monotonic()
    while not ended.is_set() and not filler.filled and when is not None:
        due = time.monotonic() - began >= when if isinstance(when, int | float) else any(disk.glob(str(when)))
        seen[1:] = [step_of(path) for path in disk.glob("run/checkpoints/checkpoint-*")]
        if due:
            filler.fill()
        time.sleep(0.001)


def train(warm: Warm, recipe: str, run: Path, *more: str) -> tuple[int, str]:
    output, folder = Path(recipe).with_name("output.txt"), run.parent
    output.unlink(missing_ok=True)
    places = {"TMPDIR": str(folder / "tmp"), "FASTFT_CACHE": str(folder / "cache")}
    code = warm.run(["train", recipe, "--output-dir", str(run), *more], output, **places)
    return code, output.read_text()


def faults_of(run: Path) -> list[str]:
    """What at a final path of the run is not whole."""
    faults = []
    for path in run.rglob("*.json"):
        if not any(part.startswith(".") for part in path.relative_to(run).parts):
            faults += _unless_parsed(path, path.read_text(encoding="utf-8"))
    for path in run.glob("*.jsonl"):
        text = path.read_text(encoding="utf-8")
        faults += [] if text.endswith("\n") or not text else [f"{path} ends within a line"]
        faults += [fault for line in text.splitlines() for fault in _unless_parsed(path, line)]
    for checkpoint in run.glob("checkpoints/checkpoint-*"):
        if (why := why_damaged(checkpoint, step_of(checkpoint))) is not None:
            faults.append(f"{checkpoint}: {why}")
    for export in (path for path in run.glob("exports/*") if not path.name.startswith(".")):
        faults += _changed(export, export / "export.json")
    if (run / "manifest.json").is_file():
        listed = json.loads((run / "manifest.json").read_text())["files"]
        there = folder_hashes(run)
        faults += [f"{name} isn't as listed" for name, digest in listed.items() if there.get(name) != digest]
    left = [path for path in run.rglob("*partial*") if path.name.startswith(".")]
    return faults + [f"{path} was left" for path in left]


def _unless_parsed(path: Path, text: str) -> list[str]:
    try:
        json.loads(text)
    except ValueError as error:
        return [f"{path} is no JSON: {error}"]
    return []


def _changed(folder: Path, manifest: Path) -> list[str]:
    if not manifest.is_file():
        return [f"{folder} has no {manifest.name}"]
    there = folder_hashes(folder)
    listed = json.loads(manifest.read_text())["files"]
    return [f"{folder / name} isn't as listed" for name, digest in listed.items() if there.get(name) != digest]


def results_of(run: Path) -> dict[str, Any]:
    """Hashes of weights and exports, and the logged points and samples without clocks and memory."""
    hashes = {
        f"{part}/{name}": digest
        for part in ("adapter", "exports")
        for name, digest in folder_hashes(run / part).items()
        if name.endswith((".safetensors", ".gguf"))
    }
    timed = ("seconds", "per_second", "data_wait", "peak_memory", "runtime", "mfu")
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").is_file() else []
    points = [
        {key: value for key, value in json.loads(line).items() if not any(word in key for word in timed)}
        for line in lines
        if '"loss"' in line or '"eval_loss"' in line
    ]
    samples = (run / "samples.jsonl").read_text() if (run / "samples.jsonl").is_file() else ""
    return {"hashes": hashes, "points": points, "samples": samples}


if __name__ == "__main__":
    main()
