"""Model weights on disk, a few rows at a time: read from safetensors, written as sharded safetensors.

Nothing is memory-mapped: a mapped page counts as resident, so a 16 GB model would look like 16 GB of memory.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from annotated_types import Ge, Len
from typing_extensions import TypedDict

from fastft.errors import ExportError
from fastft.reading import require_shape
from fastft.run_files import read_weight_index

if TYPE_CHECKING:
    import torch

MAX_SHARD_BYTES = 4 * 1000**3
_MOST_HEADER = 100_000_000  # bytes; the safetensors library's own limit
_BLOCK = 1 << 25  # values of a tensor in work at once: 128 MiB in fp32
_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


def torch_dtype(name: str) -> torch.dtype:
    """torch's type for safetensors' name of it."""
    import torch

    return {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
        "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
        "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    }[name]  # fmt: skip


class _Entry(TypedDict):
    """What a header says of a tensor."""

    dtype: str
    shape: list[Annotated[int, Ge(0)]]
    data_offsets: Annotated[list[Annotated[int, Ge(0)]], Len(2, 2)]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and type (safetensors' name) of a tensor."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * _ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class _Place:
    file: Path
    start: int


class SafetensorsFolder:
    """The tensors of a folder's *.safetensors, whether one file or several with an index. Reads on demand."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.specs: dict[str, TensorSpec] = {}
        self._places: dict[str, _Place] = {}
        for file in files:
            self._add(file)

    @classmethod
    def model(cls, folder: Path) -> SafetensorsFolder:
        """A model's weights. Raises ExportError if there are none, or a file of the index is missing."""
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            names = sorted(set(read_weight_index(index, ExportError).values()))
            files = [folder / name for name in names]
        else:
            files = sorted(folder.glob("model*.safetensors"))
        missing = [file.name for file in files if not file.is_file()]
        if missing or not files:
            raise ExportError(f"{folder} lacks model weights: {', '.join(missing) or 'no model*.safetensors'}")
        return cls(files)

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        """The tensor `name`, or some of its rows, in memory of its own. Raises ExportError if its file is cut short."""
        import torch

        spec, place = self.specs[name], self._places[name]
        shape, start = spec.shape, place.start
        if rows is not None:
            first, stop, _ = rows.indices(shape[0])
            shape = (stop - first, *shape[1:])
            start += TensorSpec((first, *shape[1:]), spec.dtype).nbytes
        buffer = bytearray(TensorSpec(shape, spec.dtype).nbytes)
        with place.file.open("rb") as file:
            file.seek(start)
            if file.readinto(buffer) != len(buffer):
                raise ExportError(f"{place.file} ends inside the tensor {name}: the file is cut short")
        if not buffer:
            return torch.empty(shape, dtype=torch_dtype(spec.dtype))
        return torch.frombuffer(buffer, dtype=torch_dtype(spec.dtype)).reshape(shape)

    def _add(self, file: Path) -> None:
        header, start = read_header(file)
        for name, entry in header.items():
            if name in self.specs:
                raise ExportError(f"The tensor {name} is in two files: {self._places[name].file.name} and {file.name}")
            if entry["dtype"] not in _ITEM_BYTES:
                raise ExportError(f"{file}: {name} is of the type {entry['dtype']}, which can't be read here")
            spec = TensorSpec(tuple(entry["shape"]), entry["dtype"])
            if entry["data_offsets"][1] - entry["data_offsets"][0] != spec.nbytes:
                raise ExportError(f"{file}: the size of {name} does not fit its shape {spec.shape}")
            self.specs[name] = spec
            self._places[name] = _Place(file, start + entry["data_offsets"][0])


def read_header(file: Path) -> tuple[dict[str, Any], int]:
    """The tensor table of a safetensors file and where its data begins. Raises ExportError if it is none."""
    try:
        if not file.is_file():
            raise ExportError(f"{file} is no whole safetensors file: it is no file at all")
        with file.open("rb") as opened:
            length = struct.unpack("<Q", opened.read(8))[0]
            if length > _MOST_HEADER:
                raise ExportError(f"{file} is no whole safetensors file: its header claims {length:,} bytes")
            header = json.loads(opened.read(length))
    except (OSError, struct.error, ValueError, RecursionError, MemoryError) as error:
        raise ExportError(f"{file} is no whole safetensors file: {error}") from error
    if isinstance(header, dict):
        header.pop("__metadata__", None)
    require_shape(header, dict[str, _Entry], file, ExportError)
    _require_apart(header, file.stat().st_size - 8 - length, file)
    return header, 8 + length


def _require_apart(header: Mapping[str, Any], size: int, file: Path) -> None:
    """Raises ExportError unless every tensor has bytes of its own among the file's `size` bytes of data."""
    end, before = 0, ""
    for name, entry in sorted(header.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        start, stop = entry["data_offsets"]
        if start < end or stop < start:
            raise ExportError(f"{file} is no whole safetensors file: {name} lies in the bytes of {before or 'none'}")
        if stop > size:
            raise ExportError(f"{file} ends inside the tensor {name}: the file is cut short")
        end, before = stop, name


def row_blocks(shape: Sequence[int]) -> Iterator[slice]:
    """Rows to work on one after the other, so that memory does not grow with the tensor; all at once if it is small."""
    rows = shape[0] if shape else 1
    step = max(64, _BLOCK // max(1, prod(shape[1:])) // 64 * 64)
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))


def write_sharded(
    folder: Path, specs: Mapping[str, TensorSpec], tensor: Callable[[str], torch.Tensor | Iterable[torch.Tensor]],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:  # fmt: skip
    """Write model.safetensors, or shards with an index, taking each tensor from `tensor(name)` in its turn.

    It may come in blocks of rows. Names, shapes and types are known beforehand, so the header goes first and no more
    than one tensor or block is held.
    """
    shards = list(_shards(specs, max_shard_bytes))
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_file(folder / file, {name: specs[name] for name in names}, tensor)
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = {"total_size": sum(spec.nbytes for spec in specs.values())}
        index = {"metadata": total, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(specs: Mapping[str, TensorSpec], max_bytes: int) -> Iterator[list[str]]:
    shard: list[str] = []
    filled = 0
    for name, spec in specs.items():
        if shard and filled + spec.nbytes > max_bytes:
            yield shard
            shard, filled = [], 0
        shard.append(name)
        filled += spec.nbytes
    yield shard


def _write_file(
    path: Path, specs: Mapping[str, TensorSpec], tensor: Callable[[str], torch.Tensor | Iterable[torch.Tensor]]
) -> None:
    import torch

    # widest type first, as the safetensors library does: every tensor then starts at a multiple of its item size
    names = sorted(specs, key=lambda name: (-_ITEM_BYTES[specs[name].dtype], name))
    with path.open("wb") as file:
        file.write(_header({name: specs[name] for name in names}))
        for name in names:
            found = tensor(name)
            blocks = [found] if isinstance(found, torch.Tensor) else found
            written = sum(_write_block(file, name, specs[name], block) for block in blocks)
            assert written == specs[name].nbytes, name


def _write_block(file: BinaryIO, name: str, spec: TensorSpec, block: torch.Tensor) -> int:
    import torch

    assert tuple(block.shape[1:]) == spec.shape[1:], name
    assert block.dtype == torch_dtype(spec.dtype), name
    return file.write(block.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _header(specs: Mapping[str, TensorSpec]) -> bytes:
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, spec in specs.items():
        start, end = end, end + spec.nbytes
        table[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [start, end]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
