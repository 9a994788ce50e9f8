"""Values of the data section that are each fine and do not go together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from fastft.data.readers.finding import find_files
from fastft.errors import DatasetError
from fastft.recipe.clash import Clash, Given
from fastft.recipe.data_section import DataSection
from fastft.recipe.describe import shown
from fastft.recipe.paths import is_local

_HELD_OUT = "Held-out rows must not be trained on; a share, e.g. 0.05, takes them out of training"


def _hub_only(given: Given) -> Iterator[Clash]:
    """Keys that only mean something for a data set on the Hub, with something local. A folder has splits too."""
    data = given.recipe.data
    if not isinstance(data.path, str) or not is_local(data.path):
        return
    folder = Path(data.path).is_dir()
    for key, default in (("name", None), ("split", "train"), ("revision", None)):
        if (value := getattr(data, key)) != default and not (folder and key == "split"):
            hint = f"Leave {key} out, or name the Hub id in data.path"
            found = f"{shown(value)} with a local {'folder' if folder else 'file'}"
            yield Clash((f"data.{key}", "data.path"), found, "a Hub id", hint)


def _mixture(given: Given) -> Iterator[Clash]:
    """Keys that are about one set, beside a list of them; and Hub keys in an entry that is local."""
    data = given.recipe.data
    if isinstance(data.path, str):
        return
    for key, default in (("name", None), ("split", "train"), ("revision", None)):
        if (value := getattr(data, key)) != default:
            hint = f"Write {key} into the entry it is about: {{path: …, {key}: …}}"
            yield Clash((f"data.{key}", "data.path"), f"{shown(value)} with a list in data.path", "one data set", hint)
    for index, part in enumerate(data.path):
        folder = is_local(part.path) and Path(part.path).is_dir()
        for key in ("name", "split", "revision"):
            value = getattr(part, key)
            if is_local(part.path) and value is not None and not (key == "split" and (folder or value == "train")):
                found, hint = f"{key}: {value} with the local {Path(part.path).name}", f"Leave {key} out"
                yield Clash(("data.path",), found, "a Hub id with it", hint, index)


def _held_out_rows(given: Given) -> Iterator[Clash]:
    """Held-out rows that are not there, or are trained on."""
    data = given.recipe.data
    wanted = data.eval_split
    if not isinstance(wanted, str):
        return
    paths = [data.path] if isinstance(data.path, str) else [part.path for part in data.path]
    keys = ("data.eval_split", "data.path")
    if wanted in paths:
        yield Clash(keys, "the file that is trained on", "another file", _HELD_OUT)
    elif is_local(wanted):
        return
    elif not isinstance(data.path, str):
        found = f'found "{wanted}" with a list in data.path, which has no splits of its own'
        yield Clash(keys, found, "a share, a count, or a file")
    elif wanted in (data.split, data.split.partition("[")[0]):
        found = f'found "{wanted}" with data.split: {data.split}'
        yield Clash(("data.eval_split", "data.split"), found, "another split", _HELD_OUT)
    elif is_local(data.path):
        yield from _local_split(data, wanted)


def _local_split(data: DataSection, wanted: str) -> Iterator[Clash]:
    keys, path = ("data.eval_split", "data.path"), Path(str(data.path))
    if not path.is_dir():
        found = f'found "{wanted}" with a local data.path, which has no splits'
        yield Clash(keys, found, "a share, a count, or a file")
        return
    try:
        shared = set(find_files(path, wanted)) & set(find_files(path, data.split))
    except DatasetError as error:
        yield Clash(
            keys,
            f'found "{wanted}": {error.message}',
            "a file of that name in the folder",
            error.hint.removesuffix("."),
        )
        return
    if shared:
        found = f'found "{wanted}", whose {min(shared).name} is trained on'
        yield Clash(keys, found, "another split", _HELD_OUT)


def _raw_text(given: Given) -> Iterator[Clash]:
    data = given.recipe.data
    if data.format == "text" and data.train_on in ("last", "tool_calls"):
        found = f'found "{data.train_on}" with data.format: text, which has no turns'
        yield Clash(("data.train_on", "data.format"), found, "all")


DATA_RULES: tuple[Callable[[Given], Iterator[Clash]], ...] = (_hub_only, _mixture, _held_out_rows, _raw_text)
