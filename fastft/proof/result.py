"""What a verification found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Check:
    """One thing compared: what was measured, what is allowed, the verdict, and what differs first if it failed."""

    name: str
    value: str
    threshold: str
    passed: bool
    detail: str = ""

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

    def __str__(self) -> str:
        """One line for people; with failures, what differs first."""
        if self.passed:
            return f"{self.name}: all {len(self.checks)} checks passed, compared with {self.reference}"
        lines = [f"{self.name} differs from {self.reference}:", *(f"  {check}" for check in self.failures)]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "passed": self.passed,
            "reference": self.reference,
            "seconds": round(self.seconds, 2),
            "checks": [asdict(check) for check in self.checks],
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
                table.add_row("", Text(check.detail, "dim" if check.passed else "red"), "", "")
        return table
