"""How much of the host's memory this process may use: the machine's, or less where its control groups say so.

A process that touches more than there is gets killed by the system, without a word. `asking_for_no_more` has the
allocator refuse it instead, so that training can go on with less.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from fastft.errors import TrainingError

_PROC = Path("/proc")
_MARGIN = 96 << 20  # bytes that stay free: page tables, stacks, what other processes ask for in the meantime
_EVERY = 1.0  # seconds between two looks while training; one takes 3 ms
_limited = False
_mapped = 0
_IMPORTED = 5_500_000_000  # bytes; without a GPU VmPeak is 5.3e9 once Unsloth is imported, and 4.6e9 let it abort
_UNLIMITED = 1 << 60  # version 1 writes a number near 2^63 where there is no limit


@dataclass(frozen=True, slots=True)
class Group:
    """A control group's limit and what its processes use now, in bytes. Files that can be read again don't count."""

    limit: int
    used: int


def groups(proc: Path = _PROC) -> tuple[Group, ...]:
    """The control groups with a limit that this process is in, of version 1 or 2, parents among them."""
    try:
        lines = [line.split(":", 2) for line in (proc / "self/cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (proc / "self/mountinfo").read_text().splitlines()]
    except OSError:
        return ()
    found: list[Group | None] = []
    for number, controllers, path in lines:
        second = number == "0" and not controllers
        if not second and "memory" not in controllers.split(","):
            continue
        found += [_read(place, second=second) for place in _places(mounts, path, second=second)]
    return tuple(group for group in found if group is not None)


def _places(mounts: list[list[str]], path: str, *, second: bool) -> Iterator[Path]:
    """The folders of the group `path` and of its parents, as far as they are mounted here."""
    for fields in mounts:
        root, point, rest = fields[3], fields[4], fields[fields.index("-") + 1 :]
        if rest[0] != ("cgroup2" if second else "cgroup") or (not second and "memory" not in rest[2].split(",")):
            continue
        inside = os.path.relpath(path, root)
        folder = Path(point) if inside.startswith("..") else Path(point, inside)
        yield from (each for each in (folder, *folder.parents) if each.is_relative_to(point))


def _read(folder: Path, *, second: bool) -> Group | None:
    limit, used, prefix = (
        ("memory.max", "memory.current", "") if second else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
    )
    try:
        bytes_allowed = int((folder / limit).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cached = sum(int(statistics.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
        taken = int((folder / used).read_text()) - cached
    except (OSError, ValueError):  # "max", or no such files at the root
        return None
    return Group(bytes_allowed, max(0, taken)) if bytes_allowed < _UNLIMITED else None


def host_memory() -> int:
    """Bytes of memory this process may use: the least of the machine's and of its groups' limits."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(group.limit for group in groups())])


def free_memory() -> int:
    """Bytes of the host's memory that are free for use now."""
    import psutil

    return max(0, min([psutil.virtual_memory().available, *(group.limit - group.used for group in groups())]))


@contextlib.contextmanager
def asking_for_no_more(mapped: int = 0) -> Iterator[None]:
    """Within, this process can't ask for more memory than was free when `refresh_limit` was called last.

    By the limit on its data segment: what is asked for beyond raises MemoryError, or torch's error of its allocator.
    `mapped` are bytes of files that are mapped within: the limit counts them, and they take no memory.
    """
    global _limited, _mapped
    former = resource.getrlimit(resource.RLIMIT_DATA)
    _limited, _mapped = True, mapped
    refresh_limit()
    try:
        yield
    finally:
        _limited, _mapped = False, 0
        resource.setrlimit(resource.RLIMIT_DATA, former)


def loading_from(folder: Path) -> contextlib.AbstractContextManager[None]:
    """`asking_for_no_more` while the weights in `folder` are loaded; no limit where they are somewhere else."""
    mapped = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return asking_for_no_more(mapped) if mapped else contextlib.nullcontext()


def require_address_space() -> None:
    """Raises TrainingError if a limit on this process's address space lets it not even import torch and Unsloth.

    Some libraries end the process where that runs out.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if "torch" in sys.modules or limit == resource.RLIM_INFINITY or limit >= _IMPORTED:
        return
    raise TrainingError(
        f"this process may use {limit / 1e9:.1f} GB of address space, and importing torch and Unsloth takes "
        f"{_IMPORTED / 1e9:.1f} GB, whatever the model",
        hint="`ulimit -v` shows that limit and, where it may, raises it: ulimit -v unlimited. A batch system or a "
        "container may have set it; limits on memory that is really used (control groups) are heeded by themselves.",
    )


def refresh_limit() -> None:
    """Set the limit to what this process has and what is free now; swap counts as free. Nothing where it isn't on."""
    import psutil

    if not _limited:
        return
    swap = 0 if groups() else psutil.swap_memory().free  # a group's limit may be on both
    asked = _bytes_asked_for() + free_memory() + swap - _MARGIN + _mapped
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = asked if hard == resource.RLIM_INFINITY else min(asked, hard)
    with contextlib.suppress(ValueError, OSError):  # a hard limit that was lowered meanwhile
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def return_to_the_system() -> None:
    """Give freed memory back, and then set the limit anew. Linux's allocator keeps it for what is asked for next."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    refresh_limit()


def _bytes_asked_for() -> int:
    """Of data: what the limit counts, whether it was touched or not."""
    lines = (_PROC / "self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))


def refreshing_callback() -> Any:
    """A TrainerCallback that sets the limit anew as memory is taken and given back by others."""
    from transformers import TrainerCallback

    class Refreshing(TrainerCallback):
        refreshed = 0.0

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if monotonic() - self.refreshed > _EVERY:
                refresh_limit()
                self.refreshed = monotonic()

    return Refreshing()
