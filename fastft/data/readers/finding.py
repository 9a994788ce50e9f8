"""Which files a path means: one file, a folder's files of a split, or what a glob matches."""

from __future__ import annotations

import re
from collections.abc import Iterable
from glob import has_magic
from pathlib import Path

from fastft.data.readers import READERS, kind_of, known_kinds, unknown_kind
from fastft.data.readers.opening import require_plain_file
from fastft.errors import DatasetError

# Splits that hold rows out: a folder's other files are not to be trained on by taking "all of them".
HELD_OUT = ("val", "valid", "validation", "dev", "eval", "test")
# What libraries write beside the data.
_ABOUT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_SHARD = re.compile(r"-\d+-of-\d+$")
_SHOWN = 8


def is_there(path: Path) -> bool:
    """Whether something is at `path`; not where that is no possible path: too long, or with a NUL."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_glob(text: str) -> bool:
    return has_magic(text)


def matching(pattern: Path) -> list[Path]:
    """The files a glob matches, in the order of their names; none also where it is no possible pattern."""
    above = _fixed_part(pattern)
    try:
        found = [file for file in above.glob(str(pattern.relative_to(above))) if file.is_file()]
    except (OSError, ValueError):
        return []
    return sorted(file for file in found if not file.name.startswith("."))


def find_files(path: Path, split: str = "train") -> list[Path]:
    """The data files that `path` means, in the order of their names; never none.

    A folder's files of a split are `train.jsonl`, its shards `train-00000-of-00002.parquet`, else `train.dpo.jsonl`, or
    those in a folder `train`. A folder without names of splits is read whole. Raises DatasetError saying what is there.
    """
    if is_there(path):
        if path.is_dir():
            return _in_folder(path, split)
        _require_known([path])
        require_plain_file(path, str(path))
        return [path]
    if not is_glob(str(path)):
        hint = f"data.path is a local file ({known_kinds()}), a folder, a glob or a Hub id."
        raise DatasetError(f"{path}: no such file", hint=hint)
    if not (matches := matching(path)):
        raise DatasetError(f"no file matches {path}", hint=_contents(_fixed_part(path)))
    _require_known(matches)
    return matches


def _in_folder(folder: Path, split: str) -> list[Path]:
    files = _data_files(folder)
    found = _of_split(folder, files, split)
    if not found and (folder / split).is_dir():
        folder = folder / split
        files = found = _data_files(folder)
    if not found and split == "train":
        found = [file for file in files if _first_part(file) not in HELD_OUT]
    if not found:
        what = f"holds no {split} file" if files else "holds no data files"
        raise DatasetError(f"the folder {folder} {what}", hint=_contents(folder))
    _require_one_kind(folder, found)
    return found


def _data_files(folder: Path) -> list[Path]:
    return [
        entry
        for entry in sorted(folder.iterdir())
        if entry.is_file() and kind_of(entry) and entry.name not in _ABOUT_DATA and entry.name[0] not in "._"
    ]


def _of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    return [file for file in files if _SHARD.sub("", _stem(file)) == split] or _only_one(folder, files, split)


def _only_one(folder: Path, files: Iterable[Path], split: str) -> list[Path]:
    """`train.dpo.jsonl` for the split train, if there is no other of that split."""
    found = [file for file in files if _stem(file).startswith(f"{split}.")]
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:_SHOWN])
        hint = f"Name the file, or write data.split: {_stem(found[0])}."
        raise DatasetError(f"the folder {folder} has several {split} files: {names}", hint=hint)
    return found


def _require_one_kind(folder: Path, files: Iterable[Path]) -> None:
    kinds = {READERS[kind_of(file)]: kind_of(file) for file in files}
    if len(kinds) > 1:
        raise DatasetError(
            f"the folder {folder} holds data files of several kinds: {', '.join(sorted(kinds.values()))}",
            hint=f"Say which, for example {folder / ('*' + min(kinds.values()))}. {_contents(folder)}",
        )


def _stem(file: Path) -> str:
    """The name without its kind: "train.dpo" of train.dpo.jsonl.gz."""
    return re.sub(rf"{re.escape(kind_of(file))}(\.[^.]+)?$", "", file.name, flags=re.IGNORECASE)


def _first_part(file: Path) -> str:
    return _SHARD.sub("", _stem(file)).partition(".")[0]


def _require_known(files: Iterable[Path]) -> None:
    for file in files:
        if not kind_of(file):
            raise unknown_kind(file)


def _fixed_part(path: Path) -> Path:
    """The folder above the first part with a wildcard."""
    return next(part for part in path.parents if not is_glob(str(part)))


def _contents(folder: Path) -> str:
    """What a folder holds, data or not."""
    if not folder.is_dir():
        return f"There is no folder {folder}."
    names = [entry.name + ("/" if entry.is_dir() else "") for entry in sorted(folder.iterdir())]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{folder} holds {', '.join(names[:_SHOWN])}{more}." if names else f"{folder} is empty."
