"""Processes of our own, whose imports the current folder has no say in."""

from __future__ import annotations

import sys
from pathlib import Path

# `python -m` looks for every module in the current folder first: a torch.py that lies there would be run.
_START = (
    "import runpy, sys; place, module = sys.argv[1:3]; del sys.argv[1:3]; sys.path.append(place); "
    "runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


def python_running(module: str) -> list[str]:
    """The command that runs a module of this package; its arguments follow."""
    return [sys.executable, "-P", "-c", _START, str(Path(__file__).resolve().parents[1]), module]


def forget_current_folder() -> None:
    """Take the current folder out of where `python -m` looks for modules, unless fastft itself lies there."""
    here = Path.cwd()
    if sys.path and Path(sys.path[0] or here).resolve() == here and not Path(__file__).is_relative_to(here):
        del sys.path[0]
