"""Opening a data file as bytes: decompressed on the way, and refused at once if it is no text."""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from fastft.errors import DatasetError

CODECS = {".gz": "gzip", ".zst": "Zstandard", ".bz2": "bzip2", ".xz": "xz"}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MOST_LINE = 64 << 20  # bytes of a line, characters of a cell: millions of tokens in one row
_BUFFER = 1 << 18
_SHARE = 6  # a text that is held whole takes its bytes twice, and up to four times decoded

# Kinds of files by their first bytes, for a file whose name says something else.
_MAGIC = {
    b"\x1f\x8b": "gzip data: add .gz to its name",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"\x28\xb5\x2f\xfd": "zstd data: add .zst to its name",
    b"BZh": "bzip2 data: add .bz2 to its name",
    b"\xfd7zXZ\x00": "xz data: add .xz to its name",
    b"PAR1": "Parquet data: name it .parquet",
    b"ARROW1": "Arrow data: name it .arrow",
    b"SQLite": "an SQLite database: export it as .jsonl",
    b"%PDF": "a PDF",
    b"\xff\xfe": "UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "UTF-16 text: save it as UTF-8",
    b"\0\0\0\0": "no text but zeros, as a damaged disk or an unfinished download leaves them",
}


def magic_kind(head: bytes) -> str:
    """What a file with these first bytes is, for people, or "" if it may be text."""
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")


@contextmanager
def open_bytes(path: Path, name: str) -> Iterator[BinaryIO]:
    """The bytes of a text file, unpacked if its name says that it is packed.

    Raises DatasetError: no such file, damaged compressed data (also later, while reading), no text at all, or more of
    it than there is memory for.
    """
    try:
        require_plain_file(path, name)
        with _opened(path) as file:
            if kind := magic_kind(file.peek(8)[:8]):
                raise DatasetError(f"{name} is {kind}", hint=f"Its name promises {path.suffix} text.")
            yield cast(BinaryIO, file)
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise _unreadable(path, name, error) from error
    except MemoryError as error:
        raise too_large(name) from error


def require_plain_file(path: Path, name: str) -> None:
    """Raises DatasetError for a pipe or a device, which may never end. What isn't there, opening it will tell."""
    if path.exists() and not path.is_file():
        found = "a folder" if path.is_dir() else "a pipe or a device"
        raise DatasetError(f"{name} is {found}; expected a file", hint="Give a file that exists and that you may read.")


def lines(file: BinaryIO | io.TextIOWrapper, name: str) -> Iterator[Any]:
    """The lines of a file. Raises DatasetError for one that is longer than a row can be."""
    number = 0
    while line := file.readline(MOST_LINE + 1):
        number += 1
        if len(line) > MOST_LINE:
            hint = "Each row stands on a line of its own; this file has no line breaks, or is damaged."
            raise DatasetError(f"{name}:{number}: the line is longer than {MOST_LINE >> 20} MB", hint=hint)
        yield line


def whole(begun: list[bytes], file: BinaryIO, name: str) -> bytes:
    """What was read of a file with all that is left of it. Raises DatasetError for more than memory can hold."""
    from fastft.host_memory import free_memory

    most = free_memory() // _SHARE
    pieces, size = list(begun), sum(map(len, begun))
    while size <= most:
        piece = file.read(MOST_LINE)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        size += len(piece)
    raise too_large(name)


def too_large(name: str) -> DatasetError:
    return DatasetError(
        f"{name} holds more than there is memory to read at once",
        hint="Write it as JSON Lines (.jsonl), one row on each line: that is read row by row, however long it is.",
    )


def _opened(path: Path) -> io.BufferedReader[Any]:
    suffix = path.suffix.lower()
    if suffix not in CODECS:
        return io.BufferedReader(io.FileIO(path), _BUFFER)
    return io.BufferedReader(cast(io.RawIOBase, _unpacked(path, suffix)), _BUFFER)


def _unpacked(path: Path, suffix: str) -> object:
    if suffix == ".gz":
        import gzip

        return gzip.open(path, "rb")
    if suffix == ".bz2":
        import bz2

        return bz2.open(path, "rb")
    if suffix == ".xz":
        return lzma.open(path, "rb")
    import pyarrow

    return pyarrow.input_stream(str(path), compression="zstd")


def _unreadable(path: Path, name: str, error: Exception) -> DatasetError:
    codec = CODECS.get(path.suffix.lower())
    said = getattr(error, "strerror", None) or (str(error).splitlines() or ["no reason given"])[0]
    if codec and not isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError)):
        hint = "It may be cut short or damaged, or named wrongly; get it again."
        return DatasetError(f"{name}: the {codec} data can't be unpacked ({said})", hint=hint)
    return DatasetError(f"{path}: cannot be read ({said})", hint="Give a file that exists and that you may read.")
