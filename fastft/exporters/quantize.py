"""Turns a 16- or 32-bit GGUF file into any other type, as llama-quantize does, byte for byte."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastft.errors import ExportError
from fastft.exporters.ggml import ALIGNMENT, GGMLType, GGUFHeader, TensorInfo, library
from fastft.exporters.tensor_types import SCHEMES, ModelFacts, choose_types, quantization_order

_CHUNK = 1 << 21  # values a thread works on at once: 8 MB as f32
_F16_MAX = 65504.0
_TO_F32 = {GGMLType.F16: "ggml_fp16_to_fp32_row", GGMLType.BF16: "ggml_bf16_to_fp32_row"}


def quantize_file(
    source: Path, out: Path, quantization: str, *, on_progress: Callable[[int, int], None] | None = None
) -> None:
    """Write `source` (a GGUF file in f32, f16 or bf16) to `out` as `quantization`, a name in SCHEMES.

    Rows are quantised independently and in chunks, so memory is a few chunks whatever the model's size.
    `on_progress` gets tensors done and tensors in all. Raises ExportError if a tensor can't be stored so.
    """
    with GGUFHeader(source) as header:
        tensors = sorted(header.tensors(), key=lambda tensor: quantization_order(tensor.name))
        types = choose_types(tensors, ModelFacts.of(header), quantization)
        names = [tensor.name for tensor in tensors]
        start = header.derived(types, names, SCHEMES[quantization].file_type)
    with source.open("rb") as read, out.open("wb") as write, ThreadPoolExecutor(os.cpu_count()) as pool:
        write.write(start)
        done = 0
        for part, closes in _converted(read, tensors, types, pool):
            write.write(part)
            if closes:
                done += 1
                write.write(bytes(-write.tell() % ALIGNMENT))
                if on_progress:
                    on_progress(done, len(tensors))


def _converted(
    file: BinaryIO, tensors: Sequence[TensorInfo], types: Mapping[str, int], pool: ThreadPoolExecutor
) -> Iterator[tuple[bytes | memoryview, bool]]:
    """The tensors' bytes in their new types, in order, and whether a part is its tensor's last.

    At most two chunks a thread are in memory. One tensor's last chunks are worked on together with the next one's
    first: otherwise all threads but one would wait at the end of every tensor.
    """
    waiting: deque[tuple[Future[bytes | memoryview], bool]] = deque()
    for tensor in tensors:
        wanted = types[tensor.name]
        if tensor.type != wanted and tensor.type not in (GGMLType.F32, *_TO_F32):
            raise ExportError(f"{tensor.name} is quantised already (ggml type {tensor.type}) and can't be again")
        rows = max(1, _CHUNK // tensor.columns)
        for first in range(0, tensor.rows, rows):
            count = min(rows, tensor.rows - first)
            part = pool.submit(_convert_rows, file.fileno(), tensor, first, count, wanted)
            waiting.append((part, first + count == tensor.rows))
            if len(waiting) >= 2 * (os.cpu_count() or 1):
                part, closes = waiting.popleft()
                yield part.result(), closes
    while waiting:
        part, closes = waiting.popleft()
        yield part.result(), closes


def _convert_rows(descriptor: int, tensor: TensorInfo, first: int, count: int, wanted: int) -> bytes | memoryview:
    row_bytes = tensor.nbytes // tensor.rows
    raw = os.pread(descriptor, count * row_bytes, tensor.offset + first * row_bytes)
    if len(raw) != count * row_bytes:
        raise ExportError(f"The file ends inside {tensor.name}", hint="Make it again: fastft export RUN --overwrite")
    _refuse_unsound(tensor.name, tensor.type, raw, len(raw))
    if tensor.type == wanted:
        return raw
    values = _as_f32(raw, GGMLType(tensor.type), count * tensor.columns)
    if wanted == GGMLType.F16:
        _refuse_overflow(tensor.name, values)
    kind = GGMLType(wanted)
    packed = np.empty(count * kind.row_bytes(tensor.columns), np.uint8)
    library().ggml_quantize_chunk(kind, values.ctypes.data, packed.ctypes.data, 0, count, tensor.columns, None)
    _refuse_unsound(tensor.name, kind, packed.ctypes.data, packed.nbytes)
    return packed.data


def _as_f32(raw: bytes, kind: GGMLType, count: int) -> np.ndarray:
    if kind is GGMLType.F32:
        return np.frombuffer(raw, np.float32)
    values = np.empty(count, np.float32)
    getattr(library(), _TO_F32[kind])(raw, values.ctypes.data, count)
    return values


def _refuse_unsound(name: str, kind: int, data: bytes | int, size: int) -> None:
    if not library().ggml_validate_row_data(kind, data, size):
        raise ExportError(f"{name} holds infinite or NaN values")


def _refuse_overflow(name: str, values: np.ndarray) -> None:
    largest = float(np.abs(values).max(initial=0.0))
    if largest > _F16_MAX:
        raise ExportError(
            f"{name} holds a value of {largest:.6g}, too large for f16 (at most 65504)",
            hint="Export bf16, q8_0 or a K-quant instead of f16.",
        )
