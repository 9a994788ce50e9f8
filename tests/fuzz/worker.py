"""The process that runs a target's cases, and may die of them. Its answers are lines of JSON."""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
from pathlib import Path
from types import FrameType
from typing import Any

from fastft.errors import FastftError

_MEMORY = 4 << 30  # bytes of address space that cases may take beyond what was taken when they began
_MESSAGE = 2000  # characters of one message, beyond which nobody reads it
_WHOLE = 30_000  # characters of all that an error says


class NoEndError(BaseException):
    """A case took too long. No library catches it by catching Exception."""


def _alarm(_number: int, _frame: FrameType | None) -> None:
    raise NoEndError


def unclear(error: FastftError, names: list[str]) -> str:
    """What is wrong with an error as a message for people, or nothing."""
    whole = str(error)
    if not error.message.strip():
        return "its message is empty"
    if "\n" in error.message.strip():
        return "its message has more than one line"
    if hostile := [c for c in whole if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]:
        return f"it would write {hostile[0]!r} on a terminal"
    if len(error.message) > _MESSAGE or len(whole) > _WHOLE:
        return f"it has {len(error.message):,} characters in its message, {len(whole):,} in all"
    if names and not any(name in whole for name in names):
        return f"it names none of {names[:3]}"
    return ""


def main() -> None:
    target, seed, first, seconds, keep, case_seconds = sys.argv[1:7]
    faulthandler.enable()
    signal.signal(signal.SIGALRM, _alarm)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    module = importlib.import_module(f"tests.fuzz.{target}")
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{target}-") as scratch:
        os.environ["XDG_CACHE_HOME"] = os.environ["FASTFT_CACHE"] = str(Path(scratch) / "cache")
        (Path(scratch) / "state").mkdir()
        state = module.prepare(Path(scratch) / "state")
        _limit_memory(getattr(module, "MEMORY", _MEMORY))
        number, end = int(first), 0.0
        while not end or time.monotonic() < end:
            _say(answers, start=number)
            end = end or time.monotonic() + float(seconds)
            outcome = _one(module, state, f"{seed}:{number}", Path(scratch) / "case", Path(keep), float(case_seconds))
            _say(answers, case=number, **outcome)
            number += 1
        _say(answers, finished=number)


def _say(answers: Any, **event: Any) -> None:
    answers.write(json.dumps(event) + "\n")
    answers.flush()


def _limit_memory(more: int) -> None:
    """Beyond that, allocations fail, as they should before a machine is brought down."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _one(module: Any, state: Any, seed: str, folder: Path, keep: Path, limit: float) -> dict[str, Any]:
    """Run one case: {"end": "ok" | "error" | "fault", …}."""
    _remove(folder)
    folder.mkdir()
    names: list[str] = []
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        module.case(state, random.Random(seed), folder, names)
    except FastftError as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if (why := unclear(error, names)) and not isinstance(error, getattr(module, "ANY_NAME", ())):
            return _fault(f"{type(error).__name__}: {why}: {str(error)[:300]!r}", why, seed, folder, keep)
        return {"end": "error"}
    except NoEndError:
        return _fault(f"no end after {limit:.0f} s", "", seed, folder, keep)
    except BaseException as error:  # noqa: BLE001 -- that is what is looked for
        signal.setitimer(signal.ITIMER_REAL, 0)
        return _fault(f"{type(error).__name__}: {str(error)[:300]}", "", seed, folder, keep)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"end": "ok"}


def _fault(what: str, why: str, seed: str, folder: Path, keep: Path) -> dict[str, Any]:
    """Keep the input and the traceback. Faults raised at one place of ours are one."""
    kind, error, trace = sys.exc_info()
    frames = [f for f in traceback.extract_tb(trace) if f"{os.sep}fastft{os.sep}" in f.filename]
    own = frames[-1] if frames else traceback.extract_tb(trace)[-1]
    where = f"{kind.__name__ if kind else ''} {why[:20]} {Path(own.filename).name}:{own.lineno}"
    kept = keep / seed.replace(":", "-")
    if not kept.exists():
        try:
            shutil.copytree(folder, kept, symlinks=True, ignore=_only_files)
        except (OSError, shutil.Error):
            kept.mkdir(exist_ok=True)
        text = "".join(traceback.format_exception(kind, error, trace))[:20_000]
        (kept / "fault.txt").write_text(f"{what}\n{text}", encoding="utf-8", errors="backslashreplace")
    return {"end": "fault", "what": f"{what} ({own.filename.rpartition('fastft/')[2]}:{own.lineno})", "where": where,
            "kept": str(kept)}  # fmt: skip


def _only_files(folder: str, names: list[str]) -> list[str]:
    """What is no file or folder is not copied: reading a pipe never ends."""
    paths = [Path(folder) / name for name in names]
    return [path.name for path in paths if not (path.is_dir() or path.is_file()) or path.stat().st_size > 1 << 26]


def _remove(folder: Path) -> None:
    if folder.exists():
        for path in folder.rglob("*"):
            if not path.is_symlink() and path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
