"""Writing so that a reader never meets half a file: beside its place, flushed, then renamed."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# What file systems answer that can't do it to a folder: NFS locks only what is open for writing, which no folder can
# be; some mounts of clouds' and other systems' drives know neither locks nor fsync of folders.
_UNABLE = (errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_LOCK = ".lock"


def at_home(path: Path | str) -> Path:
    """`path` with the user's folder for a leading ~; as it is where there is none of that name."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path's own raises then


def is_folder(path: Path | str) -> bool:
    """Whether there is a folder at `path`, which may be any text."""
    return os.path.isdir(at_home(path))  # noqa: PTH112  Path's own raises for names that are too long


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step; a crash leaves either the old file or the new one."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder`, by its path relative to it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256_of(path) for path in files}


def make_durable(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk before anything that is written from now on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in _UNABLE:
            raise
    finally:
        os.close(descriptor)


def take_lock(folder: Path) -> int | None:
    """A lock on `folder` that ends with this process however it ends, or when the descriptor is closed.

    None if another process (or descriptor) holds it. Where the file system has no locks for folders it is one on a file
    in it, and where it has none at all one on a file of this machine's, which no other machine sees.
    """
    for descriptor in _lockable(folder):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _UNABLE:
                raise
        else:
            return descriptor
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(folder))


def _lockable(folder: Path) -> Iterator[int]:
    """Descriptors that stand for `folder`, each tried where the one before can't be locked."""
    yield os.open(folder, os.O_RDONLY)
    yield os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    named = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    place = Path(tempfile.gettempdir(), f"fastft-{os.getuid()}-{named}.lock")
    yield os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def is_alive(pid: int) -> bool:
    """Whether a process of that number runs, ours or another's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
