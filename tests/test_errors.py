"""Errors are safe to print and short enough to read, whatever they quote."""

from __future__ import annotations

import pytest

from fastft.errors import DatasetError, Fault, ModelError, VerificationError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\x9b31m\x7f\r\x00", "\\x9b31m\\x7f\\x0d\\x00"),
        ("a\u202egpj.exe\u2066", "a\\u202egpj.exe\\u2066"),
        ("bad\udcff", "bad\\udcff"),
        ("é 你好 👩‍👩‍👧 a\tb", "é 你好 👩‍👩‍👧 a\tb"),
    ],
)
def test_what_a_terminal_would_obey_is_written_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert ModelError(text).message == shown
    assert ModelError("x", hint=text).hint == shown
    assert str(Fault("a", text, "")) == f"a: {shown}"


@pytest.mark.parametrize("wanted", [True, False])
def test_a_stop_that_was_asked_for_is_not_called_an_error(wanted: bool, capsys: pytest.CaptureFixture[str]) -> None:
    from fastft.cli import _complain

    error = DatasetError("training stopped at step 8 of 24: SIGINT")
    error.wanted = wanted
    _complain(error)
    assert capsys.readouterr().err.startswith("training stopped" if wanted else "error: training stopped")


def test_a_message_is_one_line_and_the_table_of_a_verification_is_not() -> None:
    assert DatasetError("a\nb.jsonl is empty").message == "a\\nb.jsonl is empty"
    assert VerificationError("first\nsecond").message == "first\nsecond"


def test_huge_texts_and_many_faults_are_shortened_and_counted() -> None:
    error = DatasetError("start " + "x" * 5000 + " end", faults=[Fault("w", "y" * 9000, "z")] * 120)
    assert len(error.message) < 1100
    assert error.message.startswith("start ")
    assert error.message.endswith(" end")
    assert "(5,010 characters)" in error.message
    assert len(error.faults) == 120
    assert len(error.fault_lines) == 51
    assert error.fault_lines[-1] == "… and 70 more"
    assert len(str(error)) < 60_000
