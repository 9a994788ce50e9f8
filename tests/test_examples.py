"""The examples are run as they stand, in an empty folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
pytestmark = pytest.mark.slow


def test_the_script_trains_chats_and_exports(tmp_path: Path) -> None:
    script = EXAMPLES / "quickstart.py"
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ready for llama.cpp and Ollama" in done.stdout
    assert (tmp_path / "runs" / "example" / "exports" / "gguf-q8_0" / "verification.json").is_file()


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLES / "colab_quickstart.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", [])]
    assert any("held out" in text for text in shown)
    assert (tmp_path / "model.zip").stat().st_size > 1_000_000
