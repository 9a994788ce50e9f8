"""Seconds until `fastft --help` and `fastft check recipes/quickstart.yaml` are done: best and median of ten.

uv run python bench/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = (["--help"], ["check", "recipes/quickstart.yaml"])


def seconds(arguments: list[str]) -> float:
    command = [str(Path(sys.executable).parent / "fastft"), *arguments]
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    for arguments in COMMANDS:
        taken = [seconds(arguments) for _ in range(10)]
        name = f"fastft {' '.join(arguments)}"
        print(f"{name:<42} best {min(taken):.2f} s  median {statistics.median(taken):.2f} s")


if __name__ == "__main__":
    main()
