"""What the quickstart takes and gives: seconds, peak memory of all its processes, exact answers before and after.

uv run python bench/startup/quickstart.py [--out bench/results/quickstart.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tree_memory(pid: int) -> int:
    """Bytes of memory of a process and its descendants, shared pages counted once (proportional set size)."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        below = sum(tree_memory(int(child)) for child in children.read_text().split())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return below + next((int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Pss:")), 0)


def run_quickstart(output_dir: Path) -> tuple[float, int]:
    """(seconds, peak bytes) of the whole command; raises CalledProcessError if it fails."""
    command = [sys.executable, "-m", "fastft", "train", "recipes/quickstart.yaml", "--output-dir", str(output_dir)]
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command, cwd=ROOT) as process:
        while process.poll() is None:
            peak = max(peak, tree_memory(process.pid))
            time.sleep(0.25)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - started, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        run = Path(work) / "quickstart"
        seconds, peak = run_quickstart(run)
        manifest = json.loads((run / "manifest.json").read_text())
        proofs = [json.loads(path.read_text()) for path in sorted(run.glob("exports/*/verification.json"))]
    before, after = (manifest["evaluation"][when]["exact_share"] for when in ("before", "after"))
    exact = {
        f"exact answers, {proof['name']}": check["value"]
        for proof in proofs
        for check in proof["checks"]
        if "exact" in check["name"]
    }
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {manifest['device']['threads']} threads",
        "seconds": round(seconds, 1),
        "peak memory, all processes (GB)": round(peak / 1e9, 2),
        "exact answers before": before,
        "exact answers after": after,
        **exact,
        "verified": {proof["name"]: proof["passed"] for proof in proofs},
    }
    for key, value in result.items():
        print(f"{key:<36} {value}")
    if options.out:
        options.out.write_text(json.dumps({"command": "python bench/startup/quickstart.py", **result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
