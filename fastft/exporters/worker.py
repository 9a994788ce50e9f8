"""The export process: reads a job from stdin, writes JSON lines to stdout, everything else to the log.

    python -m fastft.exporters.worker LOG < job.json

Events: {"event": "progress", "stage", "done", "total"} and last {"event": "done", "paths"} or
{"event": "error", "kind", "message", "hint"}.
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.disk_space import free_in_words, in_words, is_full
from fastft.errors import ExportError, FastftError, VerificationError
from fastft.exporters import EXPORTERS
from fastft.exporters.process import STAGING, alone_in, staging_folder
from fastft.exporters.source import Trained
from fastft.exporters.workbench import MERGED, Target, Workbench, require_space
from fastft.files import folder_hashes, is_alive, write_json
from fastft.log_file import open_log
from fastft.run_files import has_passed, read_export

if TYPE_CHECKING:
    from fastft.verification import Verification

_PR_SET_PDEATHSIG = 1
_OLD = ".old"  # what the folder of an export is called while another takes its place


def main() -> int:
    _die_with_parent()
    job = json.load(sys.stdin)
    log = Path(sys.argv[1])
    events = _take_stdout(log)

    def emit(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")
        events.flush()

    exports = _Exports(job, lambda stage, done, total: emit("progress", stage=stage, done=done, total=total))
    try:
        paths = exports.make()
    except FastftError as error:
        emit("error", kind=type(error).__name__, message=error.message, hint=error.hint)
        return 1
    except Exception as error:
        full = is_full(error, exports.exports)
        if not full and not isinstance(error, OSError):
            raise
        told = exports.disk_full() if full else _unwritable(error, log)
        emit("error", kind=type(told).__name__, message=told.message, hint=told.hint)
        return 1
    emit("done", paths=[str(path) for path in paths])
    return 0


def _unwritable(error: Exception, log: Path) -> ExportError:
    traceback.print_exc()  # into the log
    place = getattr(error, "filename", None) or "a file of the export"
    hint = f"Nothing half-written was left; see to it, and export again. More is at the end of {log}"
    return ExportError(f"{place}: {getattr(error, 'strerror', None) or error}", hint=hint)


def _die_with_parent() -> None:
    """On Linux; elsewhere the next event to a parent that is gone ends this process."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _take_stdout(log: Path) -> Any:
    """A writer on the former stdout; descriptors 1 and 2 go to the log from here on, C libraries' output too."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout = sys.stderr = file = open_log(log)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    return events


class _Exports:
    """The exports of one job, made one after the other. Each stands at its place whole, or not at all."""

    def __init__(self, job: dict[str, Any], report: Any) -> None:
        self.trained = Trained.from_job(job)
        self.exports = self.trained.exports
        self.targets = [Target(*target) for target in job["targets"]]
        self.overwrite: bool = job["overwrite"]
        self.verify: bool = job["verify"]
        self.report = report
        self.source = self.trained.source
        self.staging = staging_folder(self.exports, os.getpid())
        self.bench = Workbench(self.source, job["dtype"], self.staging, report)
        self.made_from = {
            "model_name": self.source.model_name,
            "revision": self.source.revision,
            "dtype": job["dtype"],
            "sha256": self.source.fingerprint(),
        }

    def make(self) -> list[Path]:
        with alone_in(self.exports):
            return self._make_all()

    def _make_all(self) -> list[Path]:
        _remove_stale(self.exports)
        missing = [target for target in self.targets if not self._kept(target)]
        if MERGED not in self.targets and self._is_whole(MERGED):
            self.bench.merged = self.exports / MERGED.name
        self.staging.mkdir()
        try:
            if missing:
                require_space(self.exports, self.bench.bytes_needed(missing))
            for target in missing:
                require_space(self.exports, self.bench.bytes_needed([target]))
                self._make(target)
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)
        self._verify(missing)
        return [self.exports / target.name for target in self.targets]

    def _kept(self, target: Target) -> bool:
        """Whether the export is there already and stays. Raises ExportError if it is there but of other weights."""
        place = self.exports / target.name
        if not place.exists() or self.overwrite:
            return False
        if not self._is_whole(target):
            hint = f"Replace it: {self._again(target)}; or move it away."
            raise ExportError(f"{place} {self._why_other(place)}", hint=hint)
        if target == MERGED:
            self.bench.merged = place
        return True

    def _why_other(self, place: Path) -> str:
        """Why the export that is there can't be the one that is asked for."""
        if not (place / "export.json").is_file():
            return "has no export.json, so nothing says what it was made from"
        export = read_export(place)
        missing = [name for name in export["files"] if not (place / name).is_file()]
        if missing:
            return f"is there and lacks {missing[0]}"
        was, now = export["made_from"].get("dtype"), self.made_from["dtype"]
        if was != now:
            return f"is there and was made in {was}; {now} is asked for"
        return "is there and was made from other weights"

    def _again(self, target: Target, dtype: str | None = None) -> str:
        """The command that makes the export again, in `dtype` or as now."""
        words = ["fastft", "export", str(self.exports.parent), "--format", target.format]
        words += ["--quantization", target.quantization] if target.quantization else []
        dtype = dtype or self.made_from["dtype"]
        words += ["--dtype", dtype] if dtype != "bfloat16" else []
        return shlex.join([*words, "--overwrite"])

    def _is_whole(self, target: Target) -> bool:
        """Whether the export stands at its place with all its files, made of these weights with these settings."""
        folder = self.exports / target.name
        if not (folder / "export.json").is_file():
            return False
        export = read_export(folder)
        return export["made_from"] == self.made_from and all((folder / name).is_file() for name in export["files"])

    def _make(self, target: Target) -> None:
        started = time.perf_counter()
        out = self.staging / target.name
        out.mkdir()
        how = _exporter(target.format)(self.bench, target, out)
        manifest = {
            "name": target.name,
            "format": target.format,
            "quantization": target.quantization,
            "made_from": self.made_from,
            "how": how,
            "seconds": round(time.perf_counter() - started, 1),
            "files": folder_hashes(out),
        }
        write_json(out / "export.json", manifest)
        _put_in_place(out, self.exports / target.name)
        if target == MERGED:
            self.bench.merged = self.exports / target.name

    def disk_full(self) -> ExportError:
        needed = in_words(self.bench.bytes_needed(self.targets))
        return ExportError(
            f"The disk of {self.exports} became full: all of it takes {needed}, {free_in_words(self.exports)} are free",
            hint="Nothing half-written was left; what is whole is kept. Make room and export again.",
        )

    def _verify(self, made: list[Target]) -> None:
        """Verify what was made now, and what an earlier call made but did not come to verify."""
        if not self.verify:
            return
        from fastft.verification import verify_one

        failed: list[tuple[Target, Verification]] = []
        for number, target in enumerate(self.targets):
            if target in made or not has_passed(self.exports / target.name):
                self.report(f"verify {target.name}", number, len(self.targets))
                verification = verify_one(self.trained, target.name)
                failed += [] if verification.passed else [(target, verification)]
        if failed:
            raise VerificationError("\n".join(str(found) for _, found in failed), hint=self._after(failed))

    def _after(self, failed: list[tuple[Target, Verification]]) -> str:
        """What to do about exports that aren't what was trained."""
        proofs = ", ".join(str(self.exports / target.name / "verification.json") for target, _ in failed)
        rounded = self.made_from["dtype"] == "bfloat16" and any(found.notes for _, found in failed)
        dtype = "float16" if rounded else None
        commands = "".join(f"\n  {self._again(target, dtype)}" for target, _ in failed)
        why = "in a type that keeps more" if rounded else "if their files were changed"
        return f"Every check is in {proofs}. What was trained is whole. To make them again, {why}:{commands}"


def _exporter(name: str) -> Any:
    module, _, function = EXPORTERS[name].partition(":")
    return getattr(importlib.import_module(module), function)


def _put_in_place(out: Path, place: Path) -> None:
    """Rename the finished folder to its place; one that stands there gives way, and is deleted only afterwards."""
    _sync(out)
    old = place.with_name(f"{place.name}{_OLD}")
    if place.exists():
        place.rename(old)
    out.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Bring the files to the disk before their names say that they are whole."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _remove_stale(exports: Path) -> None:
    """Remove what killed processes left behind: whoever holds the lock is the only one who makes exports here.

    An export that was to give way goes back if nothing replaced it.
    """
    for old in exports.glob(f"*{_OLD}"):
        place = old.with_name(old.name.removesuffix(_OLD))
        if place.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(place)
    for partial in exports.glob("*/.*.partial-*"):
        if not is_alive(int(partial.name.rpartition("-")[2])):
            partial.unlink(missing_ok=True)
    for folder in exports.glob(f"{STAGING}*"):
        worker, _, proof = folder.name.removeprefix(STAGING).partition("-")
        if not proof or not is_alive(int(worker)):  # proofs, which hold no lock, name theirs so
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
