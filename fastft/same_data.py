"""Whether the data is what a run began with, and what of it is another where it isn't."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastft.data.audit import counted
from fastft.errors import DatasetError
from fastft.files import write_json
from fastft.run import Run
from fastft.run_files import read_audit


def same_data(run: Run, audit: Mapping[str, Any]) -> bool:
    """Whether the run began with these examples, or with none yet."""
    if not run.audit_path.exists():
        return True
    was = read_audit(run.audit_path)
    return was["examples_sha256"] == audit["examples_sha256"]


def require_same_data(run: Run, audit: Mapping[str, Any]) -> None:
    """Raise DatasetError if the run began with other examples."""
    if not same_data(run, audit):
        raise DatasetError(
            f"the data is another than when {run.directory} began: {data_change(run, audit)}",
            hint="Put it back as it was, or start a new run: --new.",
        )


def guard_same_data(run: Run, audit: Mapping[str, Any], *, resumed: bool) -> None:
    """Keep the data's audit in the run; when resuming, refuse examples that are not those the run began with."""
    if resumed and run.audit_path.exists():
        require_same_data(run, audit)
    else:
        write_json(run.audit_path, audit)


def data_change(run: Run, audit: Mapping[str, Any]) -> str:
    """What of the data is another than when the run began, in words."""
    was = read_audit(run.audit_path)
    if was["fingerprint"] == audit["fingerprint"]:
        template = was.get("template_sha256") != audit.get("template_sha256")
        what = "chat template" if template else "tokenizer, or another version of fastft,"
        return f"the rows are the same, and the {what} makes other tokens of them"
    return "; ".join(_files(was.get("sources", {}), audit.get("sources", {}))) or "as many rows, with another text"


def _files(was: Mapping[str, int], now: Mapping[str, int]) -> Iterator[str]:
    for file in sorted(was.keys() | now.keys()):
        if file not in was or file not in now:
            yield f"{file} is {'gone' if file in was else 'new'}"
        elif was[file] != now[file]:
            yield f"{file} had {counted(was[file], 'row')} and has {now[file]:,}"
