"""Examples and conversations in Arrow: in memory while they are few, in a file once they are many, read one by one."""

from __future__ import annotations

import json
from abc import abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from fastft.data.conversation import Conversation, Example, Message
from fastft.disk_space import why_unwritable
from fastft.errors import DatasetError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

T = TypeVar("T")

_SPILL = 64 << 20  # bytes kept in memory before they go to a file
_ITERATED = 1024  # rows made into Python objects at a time


class TableWriter:
    """Collects record batches; `finish` gives them as one table. Above 64 MiB they are written to `path` and mapped.

    Raises DatasetError where they can't be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._batches: list[pa.RecordBatch] = []
        self._held = 0
        self._writer: Any = None

    def add(self, columns: Mapping[str, Any]) -> None:
        """Append rows, as arrays of one length by column name."""
        import pyarrow as pa

        batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        self._batches.append(batch)
        self._held += batch.nbytes
        if self._held > _SPILL:
            self._spill()

    def _spill(self) -> None:
        import pyarrow as pa

        with self._written():
            if self._writer is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._writer = pa.RecordBatchFileWriter(str(self._path), self._batches[0].schema)
            for batch in self._batches:
                self._writer.write_batch(batch)
        self._batches, self._held = [], 0

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DatasetError(
                f"prepared data: {why_unwritable(error, self._path)}",
                hint="Make room there, or name another folder in the environment variable FASTFT_CACHE.",
            ) from error

    def finish(self, schema: pa.Schema) -> pa.Table:
        import pyarrow as pa

        if self._writer is None:
            return pa.Table.from_batches(self._batches, schema)
        self._spill()
        with self._written():
            self._writer.close()
        return read_table(self._path)


def read_table(path: Path) -> pa.Table:
    """The table in an Arrow file, mapped into memory rather than read."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def write_table(table: pa.Table, path: Path) -> None:
    """Write `table` to `path`; nothing to do where it is mapped from there."""
    import pyarrow as pa

    if not path.exists():
        with pa.RecordBatchFileWriter(str(path), table.schema) as writer:
            writer.write_table(table)


def example_schema() -> pa.Schema:
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    fields = {
        "input_ids": ids,
        "labels": ids,
        "place": pa.large_string(),
        "truncated": pa.int32(),
        "unlearned": pa.int32(),
    }
    return pa.schema(list(fields.items()))


def example_columns(examples: Sequence[Example]) -> dict[str, Any]:
    """The columns of `example_schema` for some examples."""
    return {
        "input_ids": _lists([example.input_ids for example in examples]),
        "labels": _lists([example.labels for example in examples]),
        "place": _texts([example.place for example in examples]),
        "truncated": _numbers(array("i", [example.truncated for example in examples])),
        "unlearned": _numbers(array("i", [example.unlearned for example in examples])),
    }


# Columns are made from buffers: pa.array would import pandas, which takes most of a second, and is slow on lists.


def _numbers(values: array[int]) -> pa.Array:
    import pyarrow as pa

    kind = {"i": pa.int32(), "q": pa.int64()}[values.typecode]
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def numbers(values: pa.Array) -> np.ndarray:
    """A column of int32 as it lies in memory; `to_numpy` would import pandas too."""
    import numpy as np

    return np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values)]


def _lists(rows: Sequence[Sequence[int]]) -> pa.ListArray:
    import pyarrow as pa

    flat = array("i", b"".join([array("i", row).tobytes() for row in rows]))  # extend() is far slower
    offsets = array("i", accumulate(map(len, rows), initial=0))
    return pa.ListArray.from_arrays(_numbers(offsets), _numbers(flat))


def _texts(texts: Sequence[str]) -> pa.Array:
    import pyarrow as pa

    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    offsets = array("q", accumulate(map(len, encoded), initial=0))
    return pa.Array.from_buffers(
        pa.large_string(), len(texts), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    )


def _values(column: pa.ChunkedArray) -> list[Any]:
    """As `_texts` wrote them: Arrow itself reads no text with half a character in it, which JSON can escape."""
    import pyarrow as pa

    if not pa.types.is_large_string(column.type):
        return column.to_pylist()
    return [value.decode("utf-8", "surrogatepass") for value in column.cast(pa.large_binary()).to_pylist()]


class _Rows(Sequence[T], Generic[T]):
    """Some rows of a table, each made into a Python object only when it is asked for."""

    def __init__(self, table: pa.Table, chosen: np.ndarray) -> None:
        self.table = table
        self.chosen = chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __eq__(self, other: object) -> bool:
        """Equal rows in the same order."""
        return type(other) is type(self) and list(self) == list(cast(Any, other))

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return self._made(self.chosen[index])
        return self._made(self.chosen[[index]])[0]

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self.chosen), _ITERATED):
            yield from self._made(self.chosen[start : start + _ITERATED])

    def _taken(self, rows: np.ndarray) -> list[dict[str, Any]]:
        taken = self.table.take(_numbers(array("q", rows.tolist())))
        columns = [_values(taken[name]) for name in taken.column_names]
        return [dict(zip(taken.column_names, values, strict=True)) for values in zip(*columns, strict=True)]

    @abstractmethod
    def _made(self, rows: np.ndarray) -> list[T]: ...


class Examples(_Rows[Example]):
    """Examples to train or evaluate on, in order."""

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Examples:
        """The examples themselves if they are stored already, else stored in memory."""
        import numpy as np
        import pyarrow as pa

        if isinstance(examples, Examples):
            return examples
        table = pa.Table.from_arrays(list(example_columns(examples).values()), schema=example_schema())
        return cls(table, np.arange(len(examples)))

    def lengths(self) -> list[int]:
        """Tokens of each example."""
        import numpy as np

        chunks = [np.diff(numbers(chunk.offsets)) for chunk in self.table["input_ids"].chunks]
        return np.concatenate(chunks)[self.chosen].tolist() if chunks else []

    def dataset(self) -> Dataset:
        """As TRL takes it: columns input_ids and labels. Nothing is copied."""
        from datasets import Dataset
        from datasets.table import InMemoryTable

        # Without a fingerprint of its own `datasets` would pickle the whole table for one.
        whole = Dataset(InMemoryTable(self.table.select(["input_ids", "labels"])), fingerprint=token_hex(8))
        everything = len(self.chosen) == len(whole) and (self.chosen[1:] > self.chosen[:-1]).all()
        return whole if everything else whole.select(self.chosen)

    def _made(self, rows: np.ndarray) -> list[Example]:
        return [Example(**row) for row in self._taken(rows)]


class Conversations(_Rows[Conversation]):
    """Conversations, read back from their JSON. The table's columns are `place` and `json`."""

    def _made(self, rows: np.ndarray) -> list[Conversation]:
        return [decode(row["json"], row["place"]) for row in self._taken(rows)]


def conversation_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([("place", pa.large_string()), ("json", pa.large_string())])


def conversation_columns(conversations: Sequence[Conversation], contents: Sequence[str]) -> dict[str, Any]:
    """The columns of `conversation_schema`; `contents` is what `encode` made of each."""
    return {"place": _texts([conversation.place for conversation in conversations]), "json": _texts(contents)}


def encode(conversation: Conversation) -> str:
    """All that a conversation says, wherever it stands, as JSON: the same text for the same content."""
    parts: list[Any] = [conversation.text, _dicts(conversation.messages), conversation.tools]
    further = (conversation.origin or {}).get("further")
    if conversation.chosen or conversation.rejected or further:
        parts += [_dicts(conversation.chosen), _dicts(conversation.rejected), conversation.label, further]
    return json.dumps(parts, ensure_ascii=False, separators=(",", ":"), default=str)


def decode(text: str, place: str) -> Conversation:
    """The conversation that `encode` wrote."""
    whole, messages, tools, *rest = json.loads(text)
    chosen, rejected, label, further = rest or ((), (), None, None)
    origin = {"further": further} if further else None
    sides = (tuple(_message(message) for message in side) for side in (messages, chosen, rejected))
    said, good, bad = sides
    return Conversation(said, place, whole, tuple(tools), good, bad, label, origin)


def _dicts(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [m.as_dict() if m.weight == 1 else m.as_dict() | {"weight": m.weight} for m in messages]


def _message(values: dict[str, Any]) -> Message:
    return Message(**{**values, "tool_calls": tuple(values.get("tool_calls", ()))})
