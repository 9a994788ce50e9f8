"""How much memory a process may use, by its control groups, and asking for no more than there is."""

from __future__ import annotations

import json
import os
import platform
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fastft.errors import TrainingError
from fastft.host_memory import Group, asking_for_no_more, free_memory, groups, host_memory
from fastft.killed import killed_for_memory, with_less_if_killed
from fastft.run import Run
from tests.short_runs import recipe_of, write_chats

MIB = 1 << 20
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


def _proc(folder: Path, cgroup: str, mounts: str) -> Path:
    own = folder / "proc" / "self"
    own.mkdir(parents=True)
    (own / "cgroup").write_text(cgroup)
    (own / "mountinfo").write_text(mounts)
    return folder / "proc"


def _group(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")


def test_groups_of_version_2_with_their_parents(tmp_path: Path) -> None:
    point = tmp_path / "cgroup"
    proc = _proc(tmp_path, "0::/job/step\n", f"31 23 0:28 / {point} rw,relatime - cgroup2 cgroup2 rw\n")
    stat = "anon 5\nactive_file 100\ninactive_file 200"
    _group(point / "job/step", {"memory.max": "max", "memory.current": 400, "memory.stat": stat})
    _group(point / "job", {"memory.max": 1000, "memory.current": 700, "memory.stat": stat})
    assert groups(proc) == (Group(1000, 400),)


def test_groups_of_version_1_seen_from_within_a_container(tmp_path: Path) -> None:
    """The group's path is the host's, and the mount begins there."""
    point = tmp_path / "memory"
    proc = _proc(
        tmp_path,
        "5:cpu:/\n4:memory:/docker/abc\n0::/\n",
        f"32 31 0:29 /docker/abc {point} rw - cgroup cgroup rw,memory\n"
        f"33 31 0:30 / {tmp_path} rw - cgroup cgroup rw,cpu\n",
    )
    stat = "total_active_file 10\ntotal_inactive_file 20"
    _group(point, {"memory.limit_in_bytes": 500, "memory.usage_in_bytes": 130, "memory.stat": stat})
    assert groups(proc) == (Group(500, 100),)


def test_without_groups_there_is_the_machines_memory(tmp_path: Path) -> None:
    assert groups(tmp_path) == ()
    assert 0 < free_memory() <= host_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_limit_is_lifted_again() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with asking_for_no_more():
        within = resource.getrlimit(resource.RLIMIT_DATA)[0]
        assert within < host_memory() * 2
        with pytest.raises(MemoryError):
            bytearray(host_memory() * 2)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group of this machine with 200 MiB."""
    folder = (V1 if (V1 / "memory.limit_in_bytes").exists() else V2) / f"fastft-test-{os.getpid()}"
    try:
        folder.mkdir()
        name = "memory.limit_in_bytes" if folder.is_relative_to(V1) else "memory.max"
        (folder / name).write_text(str(200 * MIB))
        for swap in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
            if (folder / swap).exists():
                (folder / swap).write_text("0" if swap == "memory.swap.max" else str(200 * MIB))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield folder
    folder.rmdir()


@pytest.mark.parametrize(("guarded", "code"), [(True, 7), (False, -9)])
def test_in_a_real_group_asking_for_too_much_is_refused_instead_of_punished(
    small_group: Path, guarded: bool, code: int
) -> None:
    program = f"""
import os, sys
from contextlib import nullcontext
from pathlib import Path
Path({str(small_group)!r}, "cgroup.procs").write_text(str(os.getpid()))
from fastft.errors import TrainingError
from fastft.host_memory import asking_for_no_more
try:
    with asking_for_no_more() if {guarded} else nullcontext():
        much = bytearray(400 << 20)
        much[::4096] = b"x" * len(much[::4096])
except MemoryError:
    sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == code


def _killed(group: Path) -> int:
    """The number of a process that the system killed because it touched more than the group has."""
    program = f"""
import os
from pathlib import Path
Path({str(group)!r}, "cgroup.procs").write_text(str(os.getpid()))
much = bytearray(400 << 20)
much[::4096] = b"x" * len(much[::4096])
"""
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        assert process.wait() == -signal.SIGKILL
    return process.pid


def _heartbeat(process: int, since: datetime, state: str = "training") -> dict[str, Any]:
    told = {"process": process, "host": platform.node(), "state": state, "step": 6, "steps": 9}
    return {**told, "time": since.isoformat(timespec="seconds")}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "recipe.yaml").write_text("method: sft\n")
    sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "per_device_eval_batch_size": 4}
    (tmp_path / "start.json").write_text(
        json.dumps({"arguments": sizes, "base": {"model_name": "m", "commit": None, "files": {}}})
    )
    return Run(tmp_path)


def test_a_run_that_the_system_killed_for_memory_goes_on_with_less(small_group: Path, run: Run) -> None:
    if not os.access("/dev/kmsg", os.R_OK):
        pytest.skip("the system's log can't be read here")
    since, said = datetime.now(UTC), []
    process = _killed(small_group)
    assert killed_for_memory(process, since)
    assert not killed_for_memory(process, datetime.fromtimestamp(since.timestamp() + 3600, UTC)), (
        "another of its number"
    )
    with_less_if_killed(run, _heartbeat(process, since), said.append)
    with_less_if_killed(run, _heartbeat(process, since, "evaluating"), said.append)
    what = f"the system killed process {process} for want of memory"
    assert said == [
        f"{what} in step 7 or soon after it; it goes on with per_device_train_batch_size 2 → 1, "
        "gradient_accumulation_steps 3 → 6",
        f"{what} in an evaluation; it goes on with per_device_eval_batch_size 4 → 2",
    ]
    with pytest.raises(TrainingError, match=f"{what}, and there is nothing left"):
        with_less_if_killed(run, _heartbeat(process, since), said.append)


def test_one_that_was_killed_otherwise_goes_on_as_it_was(run: Run) -> None:
    since, before, said = datetime.now(UTC), run.start_path.read_text(), []
    with subprocess.Popen(["sleep", "60"]) as process:
        process.kill()
    for state in ("training", "evaluating", "starting", "stopped"):
        with_less_if_killed(run, _heartbeat(process.pid, since, state), said.append)
    with_less_if_killed(run, {}, said.append)
    with_less_if_killed(run, _heartbeat(process.pid, since) | {"time": "then"}, said.append)
    assert not said
    assert run.start_path.read_text() == before


@pytest.mark.slow
def test_a_model_that_a_group_has_no_room_for_is_told_while_it_is_loaded(small_group: Path, tmp_path: Path) -> None:
    """Instead of a process that is killed without a word."""
    recipe = recipe_of(write_chats(tmp_path / "chats.jsonl"))
    program = f"""
import json, os, sys
from pathlib import Path
from fastft import backend
backend.import_unsloth()
import fastft, fastft.training
group = Path({str(small_group)!r})
limit = next(group / name for name in ("memory.max", "memory.limit_in_bytes") if (group / name).exists())
limit.write_text(str(64 << 20))
(group / "cgroup.procs").write_text(str(os.getpid()))
try:
    fastft.train(json.loads({json.dumps(recipe)!r}), output_dir={str(tmp_path / "run")!r})
except fastft.FastftError as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""
    told = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert told.returncode == 1, told.stdout + told.stderr
    assert "TooLittleMemoryError: there is too little memory to load the model" in told.stderr
