"""Builds llama-quantize, the reference, once from the packaged sources; later runs find it in the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from fastft.exporters.converter import converter_version, llama_cpp_sources

# The C files, ggml's quantiser among them, as a release has them; the C++ around it need not be fast.
# Without the machine's own instructions, as in the prebuilt library: fused multiply-add would round otherwise.
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_C_FLAGS_RELEASE=-O2", "-DCMAKE_CXX_FLAGS_RELEASE=-O0",
    "-DGGML_NATIVE=OFF", "-DGGML_CPU=OFF", "-DGGML_OPENMP=OFF", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_SUBPROCESS=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_ALL_WARNINGS=OFF", "-DGGML_ALL_WARNINGS=OFF",
    f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={Path(__file__).with_name('unite_sources.cmake')}",
)  # fmt: skip


def llama_quantize() -> Path:
    """The program. Skips the test, with the reason, where it can't be built."""
    folder = Path(tempfile.gettempdir()) / f"fastft-{converter_version().replace(' ', '-')}"
    program = folder / "bin" / "llama-quantize"
    if program.is_file():
        return program
    missing = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"llama-quantize can't be built here: {', '.join(missing)} is missing")
    built = _build(folder.with_name(f"{folder.name}-{os.getpid()}"))
    program.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(built, program.with_name(f"llama-quantize-{os.getpid()}"))
    program.with_name(f"llama-quantize-{os.getpid()}").replace(program)
    shutil.rmtree(built.parents[1])
    return program


def _build(folder: Path) -> Path:
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    configure = ["cmake", "-S", str(llama_cpp_sources()), "-B", str(folder), *generator, *_OPTIONS]
    build = ["cmake", "--build", str(folder), "--target", "llama-quantize", "-j", str(os.cpu_count())]
    for command in (configure, build):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / "bin" / "llama-quantize"
