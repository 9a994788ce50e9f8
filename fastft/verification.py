"""Is an export what was trained? Every export is loaded from disk again and compared with the trained model.

merged_16bit is compared with the adapter on its 16-bit base, a GGUF (run in llama.cpp) with the merged model. Prompts
and answers are the run's held-out conversations and some built-in prompts; see `fastft.proof` for each check.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from fastft.errors import FastftError, ModelError, VerificationError
from fastft.files import write_json
from fastft.proof.result import Check, Verification
from fastft.quiet import library_output_to
from fastft.run import Run

__all__ = ["Check", "Verification", "verify", "verify_export", "verify_run"]

SAMPLES = 50  # held-out conversations compared


def verify_export(run_dir: Path, name: str, *, samples: int = SAMPLES) -> Verification:
    """Compare the export `name` (a folder under exports/) with the trained model; write its verification.json.

    A difference is no exception here: see `Verification.passed`. What the trained side gives is computed once a
    process, and models are loaded one at a time. Raises ModelError if the run has no such export or no trained model.
    """
    run = Run.open(run_dir)
    folder = run.exports / name
    kind = _kind(folder, run)
    (folder / "verification.json").unlink(missing_ok=True)
    started = time.perf_counter()
    verification = _verify(run, folder, kind, samples, started)
    write_json(folder / "verification.json", verification.as_dict())
    return verification


def verify_run(run_dir: Path, *, samples: int = SAMPLES) -> list[Verification]:
    """Verify every export of a run, the merged model first. Raises ModelError if there is none."""
    run = Run.open(run_dir)
    names = export_names(run)
    if not names:
        raise ModelError(
            f"The run {run.directory} has no exports", hint=f"Make one: fastft export {run.directory} --format gguf"
        )
    return [verify_export(run.directory, name, samples=samples) for name in names]


def export_names(run: Run) -> list[str]:
    """Names of the run's exports, in the order to verify them in."""
    folders = [path.name for path in run.exports.glob("*") if path.is_dir() and _known(path.name)]
    return sorted(folders, key=lambda name: (name != "merged_16bit", name))


def _verify(run: Run, folder: Path, kind: str, samples: int, started: float) -> Verification:
    from fastft.proof.files import files_check
    from fastft.proof.gguf import gguf_checks
    from fastft.proof.merged import merged_checks
    from fastft.proof.reference import MERGED, reference_for

    reference = reference_for(run, samples)
    if kind == MERGED:
        checks = merged_checks(reference, folder)
        against = "the adapter on its 16-bit base" if run.adapter.is_dir() else "the trained model"
    else:
        checks = gguf_checks(reference, _gguf_file(folder), kind)
        against = "the merged model" if isinstance(reference.merged, ModelError) else reference.merged.name
    found = (files_check(folder), *_until_it_breaks(checks))
    return Verification(folder.name, folder, against, found, time.perf_counter() - started)


def _until_it_breaks(checks: Iterator[Check]) -> Iterator[Check]:
    """The checks; an export too broken to be looked at is one that failed, and no reason to leave the others out."""
    try:
        yield from checks
    except (FastftError, OSError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        yield Check("can be examined", "no", "yes", False, reason)


def _known(name: str) -> bool:
    from fastft.proof.limits import LIMITS

    return name.removeprefix("gguf-") in LIMITS


def _kind(folder: Path, run: Run) -> str:
    """The row of the table of limits that the export's name stands for."""
    if not folder.is_dir() or not _known(folder.name):
        names = ", ".join(export_names(run))
        raise ModelError(
            f"The run {run.directory} has no export {folder.name}",
            hint=f"It has: {names}." if names else f"Make one: fastft export {run.directory} --format gguf",
        )
    return folder.name.removeprefix("gguf-")


def _gguf_file(folder: Path) -> Path:
    """The folder's file; where there is none, a path that loading will report as missing."""
    return next(iter(sorted(folder.glob("*.gguf"))), folder / "model.gguf")


def verify(run: Run | Path | str, *, console: Console | None = None) -> list[Verification]:
    """Compare every export of a run with the trained model again, and show a table each on `console`.

    Raises ModelError if there is nothing to verify, VerificationError that says what differs first if one fails.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    with library_output_to(run.log_path, console or Console(quiet=True)):
        verifications = verify_run(run.directory)
    if console is not None:
        console.print(*(verification.table() for verification in verifications), sep="\n")
    failed = [verification for verification in verifications if not verification.passed]
    if failed:
        raise VerificationError("\n".join(str(verification) for verification in failed))
    return verifications
