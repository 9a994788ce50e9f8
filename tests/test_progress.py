"""The live line moves with every step; without a terminal there are the lines of before."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from fastft.progress import progress_callback

_STEPS, _EVERY = 20, 10


def _trained(metrics: Path, *, terminal: bool) -> list[str]:
    """What is shown after each step."""
    out, shown = io.StringIO(), []
    callback = progress_callback(Console(file=out, force_terminal=terminal, width=120), metrics)
    arguments = SimpleNamespace(eval_strategy="no", save_strategy="no")
    state = SimpleNamespace(max_steps=_STEPS, num_train_epochs=1, global_step=0, eval_steps=None, save_steps=None)
    callback.on_train_begin(arguments, state, None)
    for step in range(1, _STEPS + 1):
        out.seek(0)
        out.truncate()
        state.global_step = step
        callback.on_step_end(arguments, state, None)
        if step % _EVERY == 0:
            callback.on_log(arguments, state, None, {"loss": step / 10})
        if terminal:
            callback.display.progress.refresh()
        shown.append(out.getvalue())
    callback.on_train_end(arguments, state, None)
    return shown


def test_on_a_terminal_each_step_moves_the_line_and_the_facts_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    shown = _trained(tmp_path / "metrics.jsonl", terminal=True)
    for step, text in enumerate(shown, 1):
        assert f"step {step}/{_STEPS}" in text
        told = re.findall(r"loss [\d.]+", text)
        assert told[-1:] == ([f"loss {step // _EVERY:.3f}"] if step >= _EVERY else [])


def test_elsewhere_only_logs_are_told(tmp_path: Path) -> None:
    shown = _trained(tmp_path / "metrics.jsonl", terminal=False)
    assert [step for step, text in enumerate(shown, 1) if text] == [10, 20]
