"""A disk that is full, or can't be written: found before a write where that is possible, and told with the amounts."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fastft.device import free_disk
from fastft.errors import FastftError, TrainingError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_NEARLY = 8 << 20  # free bytes from which an unclear error of a library while writing is no sign of a full disk
# What libraries say that don't pass the system's error on: safetensors' and Arrow's own, torch's writer of archives.
_WORDS = ("no space left", "disk quota exceeded", "os error 28", "os error 122")
_UNCLEAR = ("pytorchstreamwriter", "file write failed", "unexpected pos", "bus error")
_FEW_FILES = 500  # free ones from which a disk isn't out of them
LEFT_FREE = 32 << 20  # bytes that stay free beside what is written: logs and metrics go on
MAKE_ROOM = "Make room and go on; what was finished is kept, and nothing half-written is left."


def in_words(size: float) -> str:
    """A number of bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def is_full(error: BaseException, folder: Path) -> bool:
    """Whether `error`, met while writing below `folder`, says that the disk or a quota is full."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    said = str(error).lower()
    if any(words in said for words in _WORDS):
        return True
    return any(words in said for words in _UNCLEAR) and _has_little(folder)


def _has_little(folder: Path) -> bool:
    return free_disk(folder) < _NEARLY or files_free(folder) == 0


def files_free(folder: Path) -> int | None:
    """How many more files the disk of `folder` can hold, or None where it doesn't say."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    room = os.statvfs(place)
    return room.f_favail if room.f_files else None


def why_unwritable(error: BaseException, place: Path) -> str:
    """What can't be written and why, with the amount that is free."""
    if not is_full(error, place.parent):
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return f"{place} can't be written: {reason}"
    files = files_free(place.parent)
    if files is not None and files < _FEW_FILES:  # what was begun is removed by now, so some are free again
        room = f"{files:,} and {free_in_words(place.parent)} are free"
        return f"{place} can't be written: the disk holds no more files, {room}"
    return f"{place} can't be written: the disk is full, {free_in_words(place.parent)} are free"


def free_in_words(folder: Path) -> str:
    return in_words(free_disk(folder))


@contextmanager
def disk_told(folder: Path, hint: str = MAKE_ROOM) -> Iterator[None]:
    """Errors of writing below `folder`, the system's and libraries', as a TrainingError with the amounts."""
    try:
        yield
    except FastftError:
        raise
    except Exception as error:
        if (told := of_writing(error, folder, hint)) is None:
            raise
        raise told from error


def of_writing(error: Exception, folder: Path, hint: str = MAKE_ROOM) -> TrainingError | None:
    """`error`, met while writing below `folder`, for people; None if it isn't about a disk."""
    unwritable = isinstance(error, OSError) and error.errno in _UNWRITABLE
    if not unwritable and not is_full(error, folder):
        return None
    named = getattr(error, "filename", None)
    place = Path(named) if isinstance(named, str) and Path(named).is_absolute() else folder / "."
    return TrainingError(why_unwritable(error, place), hint=hint)


def require_parts(parts: Mapping[str, tuple[Path, int]], sure: float = 1.0) -> None:
    """Raises TrainingError if a disk has less than `sure` of what is to be written onto it.

    `parts` are (folder, bytes) by what they are for; folders of one file system are taken together.
    """
    for folder, named in _by_disk(parts).items():
        needed, free = sum(named.values()), free_disk(folder)
        if free < sure * needed:
            listed = ", ".join(f"{name} {in_words(size)}" for name, size in named.items())
            raise TrainingError(
                f"about {in_words(needed)} of disk will be needed at {folder} and {in_words(free)} are free: {listed}",
                hint=f"Nothing was begun. Free {in_words(needed - free)}, write elsewhere with --output-dir, keep "
                "fewer checkpoints (training.save_total_limit) or export fewer types.",
            )


def _by_disk(parts: Mapping[str, tuple[Path, int]]) -> dict[Path, dict[str, int]]:
    """What goes onto each disk, by the first folder that is on it."""
    first: dict[int, Path] = {}
    found: dict[Path, dict[str, int]] = {}
    for name, (folder, size) in parts.items():
        place = folder.absolute()
        while not place.exists():
            place = place.parent
        at = first.setdefault(place.stat().st_dev, folder)
        found.setdefault(at, {})[name] = size
    return found
