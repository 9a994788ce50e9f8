"""What this machine has. `nvidia-smi` is asked first, so that planning needs no torch."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastft.host_memory import host_memory


@dataclass(frozen=True, slots=True)
class Device:
    """The accelerator (or the CPU), with memory in bytes."""

    kind: str  # cuda, xpu or cpu
    name: str
    memory: int
    threads: int
    host_memory: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def is_cpu(self) -> bool:
        return self.kind == "cpu"


def find_device() -> Device:
    """The first GPU that `nvidia-smi` tells of and CUDA_VISIBLE_DEVICES allows, else the CPU. No torch."""
    cpu = the_cpu()
    gpu = _first_gpu()
    return Device("cuda", gpu[0], gpu[1], cpu.threads, cpu.host_memory) if gpu is not None else cpu


def the_cpu() -> Device:
    """This machine's CPU, with the threads and the memory this process may use."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if (told := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():  # which torch goes by
        threads = max(1, min(threads, int(told)))
    host = host_memory()
    return Device("cpu", platform.processor() or platform.machine(), host, threads, host)


def _first_gpu() -> tuple[str, int] | None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.split(",")[0].strip() in ("", "-1"):
        return None
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    if visible is not None:
        command.append(f"--id={visible.split(',')[0].strip()}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0 or not done.stdout.strip():
        return None
    name, mebibytes = done.stdout.strip().splitlines()[0].rsplit(",", 1)
    return name.strip(), int(float(mebibytes)) << 20


def free_disk(folder: Path) -> int:
    """Free bytes on the disk that holds `folder` (or its nearest existing parent)."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
