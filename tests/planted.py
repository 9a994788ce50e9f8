"""Programs planted where data is expected: each leaves a mark if it is ever run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any


class Planted:
    """Pickled, a program that leaves the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self._mark}'",)


def plant_pickle(path: Path, mark: Path, *, plain: bool = False) -> None:
    """Write a pickle, within torch's archive or `plain`, as older files are."""
    if plain:
        path.write_bytes(pickle.dumps(Planted(mark)))
        return
    import torch

    torch.save({"weight": Planted(mark)}, path)


def plant_code(path: Path, mark: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Net: pass\nclass Config: pass\n")


def copy_tiny(tiny: Path, folder: Path) -> Path:
    shutil.copytree(tiny, folder)
    return folder


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def fastft(*arguments: str | Path, cwd: Path, answers: str = "") -> subprocess.CompletedProcess[str]:
    """A command of fastft in a process of its own, in the folder `cwd`."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("fastft")), *map(str, arguments)],
        cwd=cwd,
        input=answers,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
        timeout=200,
    )


def refused(done: subprocess.CompletedProcess[str], *said: str, code: int = 2) -> None:
    """One error for people, and no traceback."""
    whole = done.stdout + done.stderr
    assert done.returncode == code, whole
    assert done.stderr.count("error: ") == 1, whole
    assert "Traceback" not in whole
    for words in said:
        assert words in done.stderr, whole
