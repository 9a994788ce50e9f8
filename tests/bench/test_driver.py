"""The driver of the benchmarks, on arms that take no time: what it must not get wrong in silence."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import pytest

from bench.driver import failures, ratio, run_arms, run_child, spread
from bench.sft import curves, parity

_SCRIPT = """
import json, sys
arm = sys.argv[sys.argv.index("--arm") + 1]
if arm == "B":
    raise SystemExit("no such card")
print("noise of a library")
print("RESULT " + json.dumps({"set": "chat", "speed": {"A": 2.0, "C": 8.0}[arm]}))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "arms.py"
    path.write_text(_SCRIPT)
    return path


def test_a_failing_arm_is_told_and_the_others_go_on(script: Path, tmp_path: Path) -> None:
    records = run_arms(script, "ABCCBA", [], tmp_path / "logs")
    assert [(r["arm"], r["turn"]) for r in records] == list(zip("ABCCBA", range(1, 7), strict=True))
    assert failures(records) == [f"B, turn {turn}: exit status 1: no such card" for turn in (2, 5)]
    found = ratio(records, "speed", "C", "A", set="chat")
    assert found is not None
    assert (found["times"], found["spread"], found["spread_of_baseline"]) == (4.0, 0.0, 0.0)
    assert ratio(records, "speed", "C", "B", set="chat") is None


def test_an_arm_that_would_overrun_is_left_out(script: Path, tmp_path: Path) -> None:
    (record,) = run_arms(script, "A", [], tmp_path / "logs", deadline=time.monotonic())
    assert record["failed"].startswith("left out")


def test_what_an_arm_found_before_it_was_stopped_is_kept(tmp_path: Path) -> None:
    code = "import time; print('RESULT {\"speed\": 1}', flush=True); time.sleep(60)"
    found = run_child([sys.executable, "-c", code], tmp_path / "log", 2)
    assert found == [{"speed": 1}, {"failed": "stopped after 2 s"}]


def test_spread_is_the_distance_of_the_turns_over_their_mean() -> None:
    assert spread([9.0, 11.0]) == pytest.approx(0.2)
    assert math.isnan(spread([9.0]))


def test_losses_apart_are_said_to_be() -> None:
    records = [
        {"arm": arm, "turn": 1, "set": "chat", "losses_before": losses}
        for arm, losses in (("A", [2.0, 4.0]), ("B", [2.004, 4.004]), ("C", [2.0, 4.02]))
    ]
    told = {line.split(", ")[1][0]: line for line in parity(records, "A")}
    assert told["B"].endswith("equal")
    assert "NOT EQUAL" in told["C"]


def test_curves_compare_the_documents_all_arms_have_seen() -> None:
    records = [
        {"arm": "A", "set": "chat", "curve": [[documents, 4.0] for documents in range(1, 101)]},
        {"arm": "C", "set": "chat", "curve": [[documents, 3.0] for documents in range(1, 41)]},
    ]
    head, plain, ours = curves(records, "A")
    assert head.endswith("first 40 documents")
    assert plain.strip() == "A: 4.000  4.000  4.000  4.000"
    assert ours.endswith("against A: -1.000  -1.000  -1.000  -1.000")
