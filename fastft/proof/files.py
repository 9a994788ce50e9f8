"""The files of an export against the hashes that were taken when it was made."""

from __future__ import annotations

from pathlib import Path

from fastft.errors import ExportError
from fastft.files import sha256_of
from fastft.proof.result import Check
from fastft.run_files import read_export


def files_check(folder: Path) -> Check:
    """Every file that export.json lists must be there, byte for byte; what was put beside them is nobody's harm."""
    if not (folder / "export.json").is_file():
        return Check("files", "not known", "as exported", False, "export.json is gone")
    try:
        listed: dict[str, str] = read_export(folder)["files"]
    except ExportError as error:
        return Check("files", "not known", "as exported", False, error.message)
    wrong = [fault for name, digest in listed.items() if (fault := _fault(folder / name, digest))]
    detail = "; ".join(wrong)
    return Check("files", f"{len(listed) - len(wrong)} of {len(listed)} as exported", "all", not wrong, detail)


def _fault(path: Path, digest: str) -> str:
    if not path.is_file():
        return f"{path.name} is gone"
    return "" if sha256_of(path) == digest else f"{path.name} was changed"
