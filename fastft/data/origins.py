"""Where a source's rows lie: in local files, in a set on the Hub, or in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from fastft.data.readers import read_file
from fastft.data.rows import Row
from fastft.errors import DatasetError, Fault
from fastft.files import sha256_of


class Origin(Protocol):
    """Where a source's rows lie."""

    def rows(self) -> Iterator[Row | Fault]: ...
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class LocalFiles:
    """Files with the names that places call them."""

    files: tuple[tuple[Path, str], ...]

    def rows(self) -> Iterator[Row | Fault]:
        for path, name in self.files:
            yield from read_file(path, name)

    def fingerprint(self) -> str:
        """Of one file its sha256; of several, that of their names and contents."""
        if len(self.files) == 1:
            return sha256_of(self.files[0][0])
        return _digest(part for path, name in self.files for part in (name, sha256_of(path)))


@dataclass(frozen=True)
class HubSet:
    """A split of a set on the Hub; `datasets` keeps it on disk."""

    path: str
    name: str | None
    split: str
    revision: str | None

    def rows(self) -> Iterator[Row | Fault]:
        loaded = _load_hub(self.path, self.name, self.split, self.revision)
        for number, values in enumerate(loaded, 1):
            yield Row(dict(values), f"{self.path} row {number}")

    def fingerprint(self) -> str:
        """Of what `datasets` knows the set's content by."""
        loaded = _load_hub(self.path, self.name, self.split, self.revision)
        return _digest([self.path, self.name or "", self.split, self.revision or "", loaded._fingerprint])


@dataclass(frozen=True)
class InMemory:
    """A `datasets.Dataset` that a script holds. `name` is what its rows are called by: "train_dataset row 17"."""

    dataset: Any
    name: str

    def rows(self) -> Iterator[Row | Fault]:
        for number, values in enumerate(self.dataset.with_format(None), 1):
            yield Row(dict(values), f"{self.name} row {number}")

    def fingerprint(self) -> str:
        """Of what `datasets` knows the rows by: the same rows made the same way have the same."""
        return _digest([self.name, self.dataset._fingerprint])


@lru_cache(maxsize=16)
def _load_hub(path: str, name: str | None, split: str, revision: str | None) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # of each retry without a network it would print two lines; the error tells it once
    try:
        return load_dataset(path, name, split=split, revision=revision)
    except DatasetNotFoundError as error:
        raise DatasetError(
            f"{path}: no such file, and no such data set on the Hub ({error})",
            hint="Check the spelling; a private set needs `hf auth login` first.",
        ) from error
    # load_dataset's own complaints: an unknown subset or split, no network, a set it can't parse.
    except (ValueError, OSError, DatasetsError, HfHubHTTPError) as error:
        raise DatasetError(
            f"the Hub set {path} can't be loaded: {error}",
            hint="See data.name (subset), data.split and data.revision; without network, give a local file.",
        ) from error


def _digest(parts: Iterable[str]) -> str:
    """sha256 over texts, each with its length, so that no two lists of texts come to the same bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()
