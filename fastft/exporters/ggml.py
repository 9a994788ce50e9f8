"""ggml's own C functions, called in the shared library that the xllamacpp package carries.

Everything that writes a GGUF header or a quantised block is done by the functions llama-quantize itself calls,
so no compiler is needed and the bytes are the same.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_bool, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType

from fastft.errors import ExportError

ALIGNMENT = 32  # GGUF_DEFAULT_ALIGNMENT, which llama-quantize always writes with
QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
_MAX_DIMS = 4


class GGMLType(IntEnum):
    """`enum ggml_type`, those that occur in the files made here."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    BF16 = 30

    @property
    def block_size(self) -> int:
        """Values that are stored together; a row must be a multiple of it."""
        return library().ggml_blck_size(self)

    def row_bytes(self, columns: int) -> int:
        return library().ggml_row_size(self, columns)


class _InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", c_bool), ("ctx", POINTER(c_void_p)))


# name: (result, arguments), as declared in ggml.h and gguf.h
_SIGNATURES = {
    "ggml_blck_size": (c_int64, [c_int]),
    "ggml_row_size": (c_size_t, [c_int, c_int64]),
    "ggml_fp16_to_fp32_row": (None, [c_void_p, c_void_p, c_int64]),
    "ggml_bf16_to_fp32_row": (None, [c_void_p, c_void_p, c_int64]),
    "ggml_quantize_chunk": (c_size_t, [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]),
    "ggml_validate_row_data": (c_bool, [c_int, c_void_p, c_size_t]),
    "ggml_free": (None, [c_void_p]),
    "ggml_get_tensor": (c_void_p, [c_void_p, c_char_p]),
    "gguf_init_empty": (c_void_p, []),
    "gguf_init_from_file": (c_void_p, [c_char_p, _InitParams]),
    "gguf_free": (None, [c_void_p]),
    "gguf_get_data_offset": (c_size_t, [c_void_p]),
    "gguf_find_key": (c_int64, [c_void_p, c_char_p]),
    "gguf_get_kv_type": (c_int, [c_void_p, c_int64]),
    "gguf_get_arr_type": (c_int, [c_void_p, c_int64]),
    "gguf_get_arr_n": (c_size_t, [c_void_p, c_int64]),
    "gguf_get_arr_data": (c_void_p, [c_void_p, c_int64]),
    "gguf_get_val_u32": (c_uint32, [c_void_p, c_int64]),
    "gguf_get_val_bool": (c_bool, [c_void_p, c_int64]),
    "gguf_get_val_str": (c_char_p, [c_void_p, c_int64]),
    "gguf_get_n_tensors": (c_int64, [c_void_p]),
    "gguf_get_tensor_name": (c_char_p, [c_void_p, c_int64]),
    "gguf_get_tensor_offset": (c_size_t, [c_void_p, c_int64]),
    "gguf_get_tensor_ne": (POINTER(c_int64), [c_void_p, c_int64]),
    "gguf_get_tensor_type": (c_int, [c_void_p, c_int64]),
    "gguf_get_tensor_size": (c_size_t, [c_void_p, c_int64]),
    "gguf_set_kv": (None, [c_void_p, c_void_p]),
    "gguf_set_val_u32": (None, [c_void_p, c_char_p, c_uint32]),
    "gguf_add_tensor": (None, [c_void_p, c_void_p]),
    "gguf_set_tensor_type": (None, [c_void_p, c_char_p, c_int]),
    "gguf_get_meta_size": (c_size_t, [c_void_p]),
    "gguf_get_meta_data": (None, [c_void_p, c_void_p]),
}
_U32, _I32, _BOOL, _STRING, _ARRAY = 4, 5, 7, 8, 9  # enum gguf_type


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library. Raises ExportError if the package is absent or lacks one of the functions."""
    try:
        loaded = ctypes.CDLL(str(_library_path()))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise ExportError(
            f"llama.cpp's library in the package xllamacpp can't be used: {error}",
            hint="Reinstall the version that fastft asks for: uv sync --reinstall-package xllamacpp",
        ) from error
    return loaded


def _library_path() -> Path:
    spec = importlib.util.find_spec("xllamacpp")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    found = [path for folder in folders for path in Path(folder).glob("xllamacpp.*") if path.suffix in {".so", ".pyd"}]
    if not found:
        raise ExportError("The package xllamacpp is not installed", hint="Install fastft's dependencies: uv sync")
    return found[0]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a GGUF file. `shape` is ggml's `ne`: the row length first. `offset` is from the file's start."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    nbytes: int

    @property
    def columns(self) -> int:
        return self.shape[0]

    @property
    def rows(self) -> int:
        return self.shape[1] * self.shape[2] * self.shape[3]

    @property
    def dimensions(self) -> int:
        """As `ggml_n_dims`: trailing ones don't count."""
        return max((i + 1 for i, size in enumerate(self.shape) if size > 1), default=1)


class GGUFHeader:
    """Metadata and tensor table of a GGUF file, held by ggml itself. No tensor data is read."""

    def __init__(self, path: Path) -> None:
        self._ggml = library()
        self._tensors = c_void_p()
        parameters = _InitParams(True, ctypes.pointer(self._tensors))
        self._gguf = self._ggml.gguf_init_from_file(str(path).encode(), parameters)
        if not self._gguf:
            raise ExportError(f"{path} is no whole GGUF file", hint="Make it again: fastft export RUN --overwrite")

    def __enter__(self) -> GGUFHeader:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ggml.gguf_free(self._gguf)
        self._ggml.ggml_free(self._tensors)

    def tensors(self) -> list[TensorInfo]:
        data = self._ggml.gguf_get_data_offset(self._gguf)
        return [
            TensorInfo(
                name=self._ggml.gguf_get_tensor_name(self._gguf, index).decode(),
                shape=tuple(self._ggml.gguf_get_tensor_ne(self._gguf, index)[:_MAX_DIMS]),
                type=self._ggml.gguf_get_tensor_type(self._gguf, index),
                offset=data + self._ggml.gguf_get_tensor_offset(self._gguf, index),
                nbytes=self._ggml.gguf_get_tensor_size(self._gguf, index),
            )
            for index in range(self._ggml.gguf_get_n_tensors(self._gguf))
        ]

    def text(self, key: str) -> str | None:
        index = self._ggml.gguf_find_key(self._gguf, key.encode())
        if index < 0 or self._ggml.gguf_get_kv_type(self._gguf, index) != _STRING:
            return None
        return self._ggml.gguf_get_val_str(self._gguf, index).decode()

    def flag(self, key: str) -> bool | None:
        index = self._ggml.gguf_find_key(self._gguf, key.encode())
        if index < 0 or self._ggml.gguf_get_kv_type(self._gguf, index) != _BOOL:
            return None
        return self._ggml.gguf_get_val_bool(self._gguf, index)

    def integer(self, key: str) -> int | None:
        """The value of `key`; of an array (one value a layer) the first, as llama.cpp takes layer 0's."""
        index = self._ggml.gguf_find_key(self._gguf, key.encode())
        if index < 0:
            return None
        kind = self._ggml.gguf_get_kv_type(self._gguf, index)
        if kind == _U32:
            return self._ggml.gguf_get_val_u32(self._gguf, index)
        if kind == _ARRAY and self._ggml.gguf_get_arr_type(self._gguf, index) in (_U32, _I32):
            first = ctypes.cast(self._ggml.gguf_get_arr_data(self._gguf, index), POINTER(c_uint32))
            return first[0]
        return None

    def derived(self, types: Mapping[str, int], order: Sequence[str], file_type: int) -> bytes:
        """The header, padded, of a file with the same metadata and tensors in `order`, stored as `types` says."""
        ggml = self._ggml
        new = ggml.gguf_init_empty()
        try:
            ggml.gguf_set_kv(new, self._gguf)
            ggml.gguf_set_val_u32(new, b"general.quantization_version", QUANTIZATION_VERSION)
            ggml.gguf_set_val_u32(new, b"general.file_type", file_type)
            for name in order:
                ggml.gguf_add_tensor(new, ggml.ggml_get_tensor(self._tensors, name.encode()))
            for name in order:
                ggml.gguf_set_tensor_type(new, name.encode(), types[name])
            header = ctypes.create_string_buffer(ggml.gguf_get_meta_size(new))
            ggml.gguf_get_meta_data(new, byref(header))
            return header.raw
        finally:
            ggml.gguf_free(new)
