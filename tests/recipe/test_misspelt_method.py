"""A method that there is none of: its arguments are checked as those of the one that was meant, or that is said."""

from __future__ import annotations

import pytest

from tests.recipe.conftest import FaultsOf

TRAINING = 'training:\n  bs: 4\n  save_steps: "yes"\n'


def test_a_misspelt_method_has_its_arguments_checked(faults_of: FaultsOf) -> None:
    faults = faults_of("method: sfft\n" + TRAINING)
    assert [(fault.where, fault.found) for fault in faults] == [
        ("recipe.yaml:7 method", 'found "sfft"'),
        ("recipe.yaml:9 training.bs", "unknown key"),
        ("recipe.yaml:10 training.save_steps", 'found "yes"'),
    ]
    assert faults[0].hint == "Did you mean sft?"


def test_no_fault_comes_once_the_method_is_corrected(faults_of: FaultsOf) -> None:
    added = "training:\n  bf16: true\n  fp16: true\n  bs: 4\nexport:\n  formats: [x]\n"
    assert faults_of("method: sfft\n" + added)[1:] == faults_of("method: sft\n" + added)


def test_the_arguments_are_those_of_the_method_that_was_meant(faults_of: FaultsOf) -> None:
    (fault,) = faults_of("method: dpoo\ntraining:\n  beta: 0.2\n")
    assert fault.where == "recipe.yaml:7 method"
    faults = faults_of("method: dpoo\ntraining:\n  packing: true\n")
    assert [fault.where for fault in faults] == ["recipe.yaml:7 method", "recipe.yaml:9 training.packing"]


@pytest.mark.parametrize("method", ["zzz", "ppo", "[sft]", "5"])
def test_where_nobody_knows_what_was_meant_that_is_said(faults_of: FaultsOf, method: str) -> None:
    (fault,) = faults_of(f"method: {method}\n{TRAINING}")
    assert fault.where == "recipe.yaml:7 method"
    assert fault.hint.endswith("The fields of training: are the method's and are not checked before it is known")


@pytest.mark.parametrize("method", ["zzz", "ppo"])
def test_of_training_that_is_not_there_nothing_is_said(faults_of: FaultsOf, method: str) -> None:
    (fault,) = faults_of(f"method: {method}\n")
    assert "training:" not in fault.hint
