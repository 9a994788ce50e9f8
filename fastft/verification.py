"""Is an export what was trained? Every export is loaded from disk again and compared with the trained model.

merged_16bit is compared with the adapter on its 16-bit base, a GGUF (run in llama.cpp) with the merged model. Prompts
and answers are the run's held-out conversations and some built-in prompts; see `fastft.proof` for each check.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fastft.disk_space import is_full
from fastft.errors import ModelError, VerificationError
from fastft.exporters.source import Trained
from fastft.exporters.workbench import MERGED
from fastft.files import at_home, write_json
from fastft.proof.result import Check, Verification
from fastft.quiet import library_output_to
from fastft.run import Run

if TYPE_CHECKING:
    from fastft.proof.reference import Reference

SAMPLES = 50  # held-out conversations compared


def verify_one(trained: Trained, name: str, *, samples: int = SAMPLES) -> Verification:
    """Compare the export `name` (a folder under `trained.exports`) with the trained model; write verification.json.

    A difference is no exception here: see `Verification.passed`. What the trained side gives is computed once a
    process, and models are loaded one at a time. Raises ModelError if there is no such export or no trained model.
    """
    folder = trained.exports / name
    kind = _kind(folder)
    (folder / "verification.json").unlink(missing_ok=True)
    started = time.perf_counter()
    verification = _verify(trained, folder, kind, samples, started)
    write_json(folder / "verification.json", verification.as_dict())
    return verification


def verify_export(run_dir: Path, name: str, *, samples: int = SAMPLES) -> Verification:
    """`verify_one` for an export of the run directory `run_dir`."""
    return verify_one(Trained.of_run(Run.open(run_dir)), name, samples=samples)


def verify_run(run_dir: Path, *, samples: int = SAMPLES) -> list[Verification]:
    """Verify every export of a run, the merged model first. Raises ModelError if there is none."""
    trained = Trained.of_run(Run.open(run_dir))
    return [verify_one(trained, name, samples=samples) for name in _require_names(trained.exports, run_dir)]


def _require_names(exports: Path, target: object) -> list[str]:
    names = export_names(exports)
    if not names:
        hint = f"Make one: fastft export {target} --format gguf"
        raise ModelError(f"There are no exports in {exports}", hint=hint)
    return names


def export_names(exports: Path) -> list[str]:
    """Names of the exports in a folder, in the order to verify them in."""
    folders = [path.name for path in exports.glob("*") if path.is_dir() and _known(path.name)]
    return sorted(folders, key=lambda name: (name != MERGED.name, name))


def _verify(trained: Trained, folder: Path, kind: str, samples: int, started: float) -> Verification:
    from fastft.proof.classifier import classifier_checks
    from fastft.proof.files import files_check
    from fastft.proof.reference import made_in, reference_for

    if trained.source.classifies:
        against, checks = "the trained reward model", classifier_checks(trained, folder, kind, samples)
    else:
        dtype = None if kind in ("adapter", "gguf_lora") else made_in(folder)
        against, checks = _checks(reference_for(trained, samples, dtype), trained, folder, kind)
    found = (files_check(folder), *_until_it_breaks(checks, folder))
    return Verification(folder.name, folder, against, found, time.perf_counter() - started)


def _checks(reference: Reference, trained: Trained, folder: Path, kind: str) -> tuple[str, Iterator[Check]]:
    """(what the export is compared with, in words; the checks for its kind)."""
    from fastft.proof.adapter import adapter_checks
    from fastft.proof.gguf import gguf_checks
    from fastft.proof.gguf_lora import gguf_lora_checks
    from fastft.proof.merged import merged_checks
    from fastft.proof.merged_4bit import merged_4bit_checks

    model = "the adapter on its 16-bit base" if trained.source.is_adapter else "the trained model"
    merged = "the merged model" if isinstance(reference.merged, ModelError) else reference.merged.name
    match kind:
        case "merged_16bit":
            return model, merged_checks(reference, folder)
        case "adapter":
            return model, adapter_checks(reference, folder)
        case "gguf_lora":
            return model, gguf_lora_checks(reference, folder)
        case "merged_4bit":
            return merged, merged_4bit_checks(reference, folder)
        case _:
            return merged, gguf_checks(reference, _gguf_file(folder), kind)


def _until_it_breaks(checks: Iterator[Check], folder: Path) -> Iterator[Check]:
    """The checks; an export too broken to be looked at is one that failed, and no reason to leave the others out.

    A disk too full to examine it says nothing of the export.
    """
    try:
        yield from checks
    except Exception as error:  # over files of any content libraries raise any; tokenizers a plain one
        if is_full(error, folder):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        yield Check("can be examined", "no", "yes", False, reason)


def _known(name: str) -> bool:
    from fastft.proof.limits import LIMITS

    return name.removeprefix("gguf-") in LIMITS


def _kind(folder: Path) -> str:
    """The row of the table of limits that the export's name stands for."""
    if not folder.is_dir() or not _known(folder.name):
        names = ", ".join(export_names(folder.parent))
        raise ModelError(
            f"{folder.parent} has no export {folder.name}",
            hint=f"It has: {names}." if names else "fastft export makes some.",
        )
    return folder.name.removeprefix("gguf-")


def _gguf_file(folder: Path) -> Path:
    """The folder's file; where there is none, a path that loading will report as missing."""
    return next(iter(sorted(folder.glob("*.gguf"))), folder / "model.gguf")


def verify(target: Run | Path | str, *, console: Console | None = None) -> list[Verification]:
    """Compare every export of a run (or of an adapter folder, in exports/ beside its files) with the trained model.

    Shows a table each on `console`. Raises ModelError if there is nothing to verify, VerificationError that says what
    differs first if one fails.
    """
    trained, log = trained_at(target)
    names = _require_names(trained.exports, target)
    with library_output_to(log, console or Console(quiet=True)):
        verifications = [verify_one(trained, name) for name in names]
    if console is not None:
        console.print(*(verification.table() for verification in verifications), sep="\n")
    failed = [verification for verification in verifications if not verification.passed]
    if failed:
        raise VerificationError("\n".join(str(verification) for verification in failed))
    return verifications


def trained_at(target: Run | Path | str, *, base: str | None = None) -> tuple[Trained, Path]:
    """(what is exported, the log) of a run, a run directory or a PEFT adapter folder.

    An adapter's exports go into exports/ inside its folder. Raises ModelError if the target is none of these.
    """
    folder = Path() if isinstance(target, Run) else at_home(target)
    if not isinstance(target, Run) and (folder / "adapter_config.json").is_file():
        exports = folder.absolute() / "exports"
        return Trained.of_adapter(folder, exports, base), exports / "export.log"
    run = target if isinstance(target, Run) else Run.open(folder)
    return Trained.of_run(run), run.log_path
