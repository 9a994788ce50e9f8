"""Prepared data kept by content: the same rows, tokenizer, template and options are never prepared twice.

An entry is a folder below the user's cache directory, made beside its place and renamed, so it is whole or absent. A
changed file, template, tokenizer or option, or another version of this package's data stage, is another key.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fastft.errors import DatasetError
from fastft.files import at_home, folder_hashes, is_alive, write_json
from fastft.reading import read_json

_LOG = logging.getLogger("fastft")
_HASHES = "sha256.json"  # of the entry's other files
_PARTIAL = ".partial-"
_MOST_BYTES = 20 << 30  # of all entries; the ones used longest ago give way


def cache_folder() -> Path:
    """Where prepared data is kept: FASTFT_CACHE, or fastft/data below XDG_CACHE_HOME (~/.cache)."""
    if chosen := os.environ.get("FASTFT_CACHE"):
        return at_home(chosen)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "fastft" / "data"


def key_of(facts: Mapping[str, Any]) -> str:
    """One key for all that decides what the prepared data is."""
    whole = json.dumps([_code(), facts], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()


@cache
def _code() -> str:
    """Of the data stage's own source: an upgraded fastft may render or count otherwise."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def find(key: str) -> Path | None:
    """The entry's folder, marked as used now; None if there is none.

    One whose files aren't as they were written is removed: a changed token would be trained on.
    """
    folder = cache_folder() / key
    if not folder.is_dir():
        return None
    if not _is_whole(folder):
        _LOG.warning("prepared data in %s is damaged, so it is prepared again", folder)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    with contextlib.suppress(OSError):
        os.utime(folder)
    return folder


def staging(key: str) -> Path:
    """A place on the cache's file system where this process makes the entry `key`. It need not exist yet.

    What killed processes left in such places is removed.
    """
    for left in cache_folder().glob(f"{_PARTIAL}*"):
        if not is_alive(int(left.name.removeprefix(_PARTIAL).partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)
    return cache_folder() / f"{_PARTIAL}{os.getpid()}-{key[:16]}"


def keep(key: str, made: Path) -> Path:
    """Rename the finished folder `made` to its entry, and remove the oldest entries where all take too much."""
    folder = cache_folder() / key
    write_json(made / _HASHES, folder_hashes(made))
    try:
        made.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(made, ignore_errors=True)
    _prune(folder)
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        told = read_json(folder / _HASHES, DatasetError)
        return told == {name: digest for name, digest in folder_hashes(folder).items() if name != _HASHES}
    except (DatasetError, OSError):
        return False


def _prune(newest: Path) -> None:
    entries = sorted((e for e in newest.parent.iterdir() if not e.name.startswith(".")), key=_used, reverse=True)
    total = 0
    for entry in entries:
        total += sum(path.stat().st_size for path in entry.glob("*") if path.is_file())
        if total > _MOST_BYTES and entry != newest:
            shutil.rmtree(entry, ignore_errors=True)


def _used(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:
        return 0.0
