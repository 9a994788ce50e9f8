"""What a verification found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

MERGE = "merged model"  # the check of what an export was made from


@dataclass(frozen=True, slots=True)
class Check:
    """One thing compared: what was measured, what is allowed, the verdict, and what differs first if it failed.

    `note` is worth knowing though the check passed: it may explain why others did not.
    """

    name: str
    value: str
    threshold: str
    passed: bool
    detail: str = ""
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        return values if self.note else {key: value for key, value in values.items() if key != "note"}

    def __str__(self) -> str:
        return f"{self.name}: {self.value}, allowed {self.threshold}" + (f". {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Verification:
    """All checks of one export, in the order they were made."""

    name: str
    folder: Path
    reference: str  # what it was compared with, in words
    checks: tuple[Check, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(check.note for check in self.checks if check.note)

    def __str__(self) -> str:
        """One line for people; with failures, what differs first and what may explain it."""
        if self.passed:
            return f"{self.name}: all {len(self.checks)} checks passed, compared with {self.reference}"
        of_merge = {check.name for check in self.failures} == {MERGE}
        against = "what was trained" if of_merge else self.reference
        lines = [f"{self.name} differs from {against}:", *(f"  {check}" for check in self.failures)]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "passed": self.passed,
            "reference": self.reference,
            "seconds": round(self.seconds, 2),
            "checks": [check.as_dict() for check in self.checks],
        }

    def table(self) -> Table:
        """For the terminal: a line a check."""
        verdict = "verified" if self.passed else "NOT VERIFIED"
        table = Table(title=f"{self.name}: {verdict} against {self.reference}", title_justify="left")
        for heading in ("check", "found", "allowed", ""):
            table.add_column(heading, overflow="fold")
        for check in self.checks:
            mark = Text("ok", "green") if check.passed else Text("FAILED", "bold red")
            table.add_row(check.name, check.value, check.threshold, mark)
            if check.detail and not check.passed:
                table.add_row("", Text(check.detail, "red"), "", "")
            if check.note:
                table.add_row("", Text(check.note, "yellow"), "", "")
        return table
