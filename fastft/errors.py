"""What a user may do wrong, or meet, and what to do next.

Every error a person can cause derives from FastftError and from the stdlib type a Python caller would expect.
The command line prints `message` and `hint` without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with the input: where it is, what was found, what was expected, what to do."""

    where: str
    found: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        text = (
            f"{self.where}: {self.found}; expected {self.expected}" if self.expected else f"{self.where}: {self.found}"
        )
        return f"{text}. {self.hint}" if self.hint else text


class FastftError(Exception):
    """Base of every error that is told to a person. `hint` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.faults = tuple(faults)

    def __str__(self) -> str:
        lines = [self.message, *(f"  {fault}" for fault in self.faults)]
        return "\n".join([*lines, self.hint] if self.hint else lines)


class RecipeError(FastftError, ValueError):
    """The recipe, an override or a command-line value is wrong. Holds every fault found, not the first."""

    exit_code = 2


class DatasetError(FastftError, ValueError):
    """A data file is missing, broken, of no known format, or would leave nothing to train on."""

    exit_code = 2


class ModelError(FastftError, RuntimeError):
    """A model, tokenizer or chat template is missing or can't do what the recipe asks."""

    exit_code = 2


class TrainingError(FastftError, RuntimeError):
    """Training began and could not go on. The run directory keeps what was reached."""


class ExportError(FastftError, RuntimeError):
    """An export could not be made. Nothing half-written stands at its place."""


class VerificationError(FastftError, RuntimeError):
    """An export was made but does not behave as the trained model does."""
