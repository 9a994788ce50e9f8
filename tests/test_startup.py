"""The clock of the start, and imports that are kept short and leave nothing behind."""

from __future__ import annotations

import gc
import importlib.util
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from fastft.startup import Startup, light_imports, split

ROOT = Path(__file__).resolve().parent.parent


def test_stages_add_up_to_the_whole() -> None:
    clock = Startup(time.monotonic() - 2.0)
    clock.done("starting")
    time.sleep(0.05)
    clock.done("check")
    clock.done("starting")
    told = clock.as_dict()
    assert list(told["stages"]) == ["starting", "check"]
    assert told["stages"]["check"] == pytest.approx(0.05, abs=0.04)
    assert sum(told["stages"].values()) == pytest.approx(told["seconds"], abs=0.02)
    assert told["seconds"] == pytest.approx(2.05, abs=0.2)


def test_a_clock_of_the_process_began_with_it() -> None:
    code = "import time; time.sleep(1.0); from fastft.startup import Startup; print(Startup.of_process().seconds)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert 1.0 <= float(done.stdout) < 30.0


def test_the_split_is_one_line() -> None:
    told = {"seconds": 21.44, "stages": {"check": 2.5, "imports": 17.04, "trainer": 0.04, "first step": 0.9}}
    expected = "21.4 s to the end of the first step: check 2.5 · imports 17.0 · first step 0.9"
    assert split(told) == expected


def test_light_imports_put_everything_back() -> None:
    whole, hidden = metadata.packages_distributions, "sklearn" not in sys.modules
    with light_imports():
        assert not gc.isenabled()
        assert metadata.packages_distributions() is metadata.packages_distributions()
        if hidden:
            assert importlib.util.find_spec("sklearn") is None
    assert gc.isenabled()
    assert metadata.packages_distributions is whole
    assert importlib.util.find_spec("sklearn") is not None
    gc.unfreeze()


def test_light_imports_put_everything_back_after_a_fault() -> None:
    with pytest.raises(ImportError), light_imports():
        raise ImportError
    assert gc.isenabled()
    assert importlib.util.find_spec("chardet") is not None
    gc.unfreeze()


def test_a_fault_of_a_recipe_is_told_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {model_name: fastft/tiny}\ndata: {path: missing.jsonl}\nmethod: sft\n")
    command = [sys.executable, "-X", "importtime", "-m", "fastft", "train", str(recipe)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "fastft.checking" in imported
    assert not imported & {"torch", "unsloth", "trl", "peft"}


def test_check_imports_none_of_the_heavy_libraries() -> None:
    """Gates by modules, not by seconds: those depend on the machine."""
    code = (
        "import sys\nfrom fastft.checking import check\ncheck('recipes/quickstart.yaml')\n"
        "print(*[name for name in ('torch', 'unsloth', 'datasets', 'pandas', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
