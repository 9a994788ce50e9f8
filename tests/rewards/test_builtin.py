"""The built-in measures on tables of answers."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fastft.rewards.builtin import exact, length, number_of, numeric, regex


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is 72.", "72"),
        ("72 apples and 3 pears", "3"),
        ("1,234,567", "1234567"),
        ("$1,234.50 in all", "1234.50"),
        ("1,2,3", "3"),  # a list, not thousands
        ("12,34", "34"),
        ("so x = -3", "-3"),
        ("10-3", "3"),  # a difference, not a negative number
        ("x = −5 °C", "-5"),
        ("-$20", "-20"),
        ("0.5", "0.5"),
        ("about .25", "0.25"),
        ("1e3 metres", "1000"),
        ("2.5e-3", "0.0025"),
        ("3 + 4 = 7\n#### 7\n", "7"),
        ("#### 1,000", "1000"),
        ("so \\boxed{42}, not 43", "42"),
        ("\\boxed{1} and then \\boxed{2}", "2"),
        ("\\boxed{1{,}000}", "1000"),
        ("\\boxed{\\$5}", "5"),
        ("\\boxed{x_{1} = 9}", "9"),
        ("it costs 5 % more", "5"),
        ("٣ and 4", "4"),
    ],
)
def test_the_number_of_a_text(text: str, number: str) -> None:
    assert number_of(text) == Decimal(number)


@pytest.mark.parametrize("nothing", ["", "none", "\\boxed{}", "#### ", "…", None, True, [], {}])
def test_what_holds_no_number(nothing: object) -> None:
    assert number_of(nothing) is None


def test_numeric_compares_numbers_not_texts() -> None:
    answers = ["7", "7.0", "the answer is 7.", "8", "seven", "1,000"]
    assert numeric(answers, [7, "7", "#### 7", 7, 7, "1000.00"]) == [1, 1, 1, 0, 0, 1]
    assert numeric(["0.1"], [0.1]) == [1]
    assert numeric(["no number"], ["none either"]) == [0]


def test_exact_compares_texts_without_the_space_around_them() -> None:
    assert exact([" a b\n", "a  b", "A b", "7"], ["a b", "a b", "a b", 7]) == [1, 0, 0, 1]


def test_regex_is_found_anywhere_unless_anchored() -> None:
    answers = ["<think>x</think> 5", "5", "a\n5"]
    assert regex(answers, pattern=r"\d") == [1, 1, 1]
    assert regex(answers, pattern=r"^\d+$") == [0, 1, 0]
    assert regex(answers, pattern=r"(?m)^\d+$") == [0, 1, 1]
    assert regex(answers, pattern=r"(?s)<think>.*</think>\s*\d") == [1, 0, 0]


def test_length_falls_to_nothing_at_twice_as_much() -> None:
    ids = [[0] * n for n in (0, 4, 5, 6, 8, 10, 20)]
    assert length([""] * 7, ids, most=5) == pytest.approx([1, 1, 1, 0.8, 0.4, 0, 0])
    assert length(["ab", "abcd", "abcdef"], [[1]] * 3, most=2, unit="characters") == [1, 0, 0]
