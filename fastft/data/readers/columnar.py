"""Parquet and Arrow files, a few hundred rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastft.data.readers.opening import magic_kind, require_plain_file
from fastft.data.rows import Row
from fastft.errors import DatasetError, Fault

_AT_A_TIME = 256
_ARROW_FILE = b"ARROW1"


def read_parquet(path: Path, name: str) -> Iterator[Row | Fault]:
    from pyarrow import parquet

    with _readable(path, name, "Parquet"), parquet.ParquetFile(path) as file:
        yield from _rows(file.iter_batches(_AT_A_TIME), name)


def read_arrow(path: Path, name: str) -> Iterator[Row | Fault]:
    """An Arrow file, or a stream, as `datasets` keeps its sets in."""
    import pyarrow

    with _readable(path, name, "Arrow"), pyarrow.OSFile(str(path)) as source:
        if _head(path).startswith(_ARROW_FILE):
            file = pyarrow.ipc.open_file(source)
            batches = (file.get_batch(index) for index in range(file.num_record_batches))
        else:
            batches = iter(pyarrow.ipc.open_stream(source))
        yield from _rows(batches, name)


def _rows(batches: Iterator[Any], name: str) -> Iterator[Row | Fault]:
    number = 0
    for batch in batches:
        for start in range(0, len(batch), _AT_A_TIME):
            few = batch.slice(start, _AT_A_TIME)
            for values in _values(few):
                number += 1
                place = f"{name} row {number}"
                yield Row(values, place) if isinstance(values, dict) else Fault(place, values, "values that are whole")


def _values(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Each row's values, or what is wrong with them. Unchecked, damaged offsets would end the process."""
    import pyarrow

    try:
        batch.validate(full=True)
        whole: list[dict[str, Any]] | None = batch.to_pylist()
    except (pyarrow.ArrowInvalid, UnicodeDecodeError) as error:
        if len(batch) == 1:
            yield f"a damaged value ({str(error).splitlines()[0][:120]})"
            return
        whole = None
    if whole is not None:
        yield from whole
    else:
        for row in range(len(batch)):
            yield from _values(batch.slice(row, 1))


@contextmanager
def _readable(path: Path, name: str, wanted: str) -> Iterator[None]:
    """Whatever pyarrow can't read, as one DatasetError. It refuses broken files as OSError or ArrowException."""
    import pyarrow

    require_plain_file(path, name)
    try:
        yield
    except MemoryError as error:
        raise DatasetError(f"{name} claims more than there is memory for", hint="It may be damaged.") from error
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        kind = magic_kind(_head(path)) if path.is_file() else ""
        found = f"it is {kind}" if kind and not kind.startswith(wanted) else (str(error).splitlines() or [""])[0]
        raise DatasetError(
            f"{name} is not a readable {wanted} file: {found}", hint="It may be cut short; get it again."
        ) from error


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)
