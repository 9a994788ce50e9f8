from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import fastft


def test_no_submodule_takes_the_place_of_a_public_function() -> None:
    names = {module.name for module in pkgutil.iter_modules(fastft.__path__)}
    assert not names & set(fastft.__all__)


@pytest.mark.slow  # TRL's names load unsloth
def test_public_names_load_on_first_use_and_are_what_they_say() -> None:
    for name in fastft.__all__:
        assert getattr(fastft, name) is not None
    importlib.import_module("fastft.training")
    assert callable(fastft.train)
    assert callable(fastft.train)  # the second access must not find a module


def test_importing_fastft_and_help_load_neither_torch_nor_transformers() -> None:
    program = (
        "import sys, fastft, fastft.cli\n"
        "heavy = {'torch', 'transformers', 'datasets', 'unsloth', 'trl', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
