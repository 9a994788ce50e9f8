"""What a user may do wrong, or meet, and what to do next.

Every error a person can cause derives from FastftError and from the stdlib type a Python caller would expect.
The command line prints `message` and `hint` without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastft.redaction import redact

# What a terminal obeys or turns around instead of showing it (line breaks and tabs aside), and halves of characters.
_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MOST_CHARACTERS = 1000  # of a message or a fault; it may quote a text of any length
_MOST_HINT = 4000
_MOST_FAULTS = 50  # shown; `faults` has all


def printable(text: str) -> str:
    """`text` with what a terminal would obey written as escapes: names and values come from anyone's files.

    Secrets are left out: an error may quote an address with a password, or a library that quotes a token.
    """
    text = redact(text)
    return text if text.isprintable() else _UNSHOWABLE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _one_line(text: str) -> str:
    return printable(_clipped(text.strip()).replace("\n", "\\n"))


def _clipped(text: str, most: int = _MOST_CHARACTERS) -> str:
    """`text`, the middle left out where it is longer than anyone reads; whole secrets first, as halves aren't known."""
    text = redact(text)
    if len(text) <= most:
        return text
    return f"{text[: most - most // 5]} … ({len(text):,} characters) … {text[-most // 5 :]}"


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
        return _one_line(f"{text}. {self.hint}" if self.hint else text)


class FastftError(Exception):
    """Base of every error that is told to a person. `hint` says what to do next.

    `message` is one line that is safe to print, whatever it quotes.
    """

    exit_code = 1
    one_line = True
    wanted = False  # a stop that was asked for, which is no error to whoever reads it

    def __init__(self, message: str, *, hint: str = "", faults: Sequence[Fault] = ()) -> None:
        self.message = _one_line(message) if self.one_line else printable(message)
        super().__init__(self.message)
        self.hint = printable(_clipped(hint, _MOST_HINT))
        self.faults = tuple(faults)

    @property
    def fault_lines(self) -> list[str]:
        """A line for each fault, for the first of very many."""
        more = len(self.faults) - _MOST_FAULTS
        return [*map(str, self.faults[:_MOST_FAULTS]), *([f"… and {more:,} more"] if more > 0 else [])]

    def __str__(self) -> str:
        lines = [self.message, *(f"  {line}" for line in self.fault_lines)]
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
    """Training can't begin for want of room, or could not go on. The run directory keeps what was reached."""


class RefusedError(TrainingError):
    """A run can't go on as it was asked to. Nothing was done."""


class ExportError(FastftError, RuntimeError):
    """An export could not be made. Nothing half-written stands at its place."""


class VerificationError(FastftError, RuntimeError):
    """An export was made but does not behave as the trained model does. Its message has a table's lines."""

    one_line = False
