"""Reading small files that anyone may have made: what is missing, cut short, of another shape, endless or huge is one
clear error that names the file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import FastftError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # escapes a surrogate, alone or in a pair
_MOST_YAML = 500_000  # bytes; PyYAML reads 100 kB a second
MOST_BYTES = 64 << 20  # of a JSON file; read, it may take ten times as much


def read_text(path: Path, error: type[FastftError], hint: str = "", *, most: int = MOST_BYTES) -> str:
    """The text in `path`, UTF-8. Raises `error` if it can't be read, is no plain file, or has more than `most` bytes.

    A pipe or device isn't even opened: reading one may never end.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise error(f"{path} can't be read: it is {'a folder' if path.is_dir() else 'no plain file'}", hint=hint)
        if size > most:
            raise error(f"{path} can't be read: {size:,} bytes are more than such a file has ({most:,})", hint=hint)
        return path.read_text(encoding="utf-8")
    except OSError as problem:
        raise error(f"{path} can't be read: {problem.strerror or problem}", hint=hint) from problem
    except ValueError as problem:  # UnicodeDecodeError, or a NUL in the path
        raise error(f"{path} can't be read: {problem}", hint=hint) from problem


def read_json(
    path: Path, error: type[FastftError], hint: str = "", *, shape: Any = dict[str, Any], most: int = MOST_BYTES
) -> Any:
    """The JSON in `path`, which has the types that `shape` (for pydantic) says: an object, left out. Raises `error`."""
    value = _parsed(read_text(path, error, hint, most=most), path, error, hint)
    return require_shape(value, shape, path, error, hint)


def _parsed(text: str, place: object, error: type[FastftError], hint: str) -> Any:
    """`text` as JSON, in which no half of a character may stand: neither files nor libraries take one."""
    try:
        value = json.loads(text)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as problem:
        raise error(f"{place} can't be read: not valid JSON: {problem}", hint=hint) from problem
    return value


def read_json_lines(
    path: Path, error: type[FastftError], hint: str = "", *, shape: Any = dict[str, Any], most: int = 1 << 30
) -> list[Any]:
    """The values in a file of JSON Lines, blank lines passed over. Raises `error` naming the line."""
    values = []
    for number, line in enumerate(read_text(path, error, hint, most=most).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        values.append(require_shape(_parsed(line, place, error, hint), shape, place, error, hint))
    return values


def read_yaml(path: Path, error: type[FastftError], hint: str = "") -> dict[str, Any]:
    """The mapping in a YAML file that fastft wrote, as PyYAML reads it. Raises `error`; for recipes of people there is
    `recipe.document`."""
    return parse_yaml(read_text(path, error, hint, most=_MOST_YAML), path, error, hint)


def parse_yaml(text: str, place: object, error: type[FastftError], hint: str = "") -> dict[str, Any]:
    """The mapping in YAML that fastft wrote to `place`. Raises `error`."""
    import yaml

    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise error(f"{place} can't be read: it holds aliases, which fastft never writes", hint=hint)
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        reason = str(problem).partition("\n")[0]
        raise error(f"{place} can't be read: not valid YAML: {reason}", hint=hint) from problem
    return require_shape({} if value is None else value, dict[str, Any], place, error, hint)


def require_shape(value: Any, shape: Any, place: object, error: type[FastftError], hint: str = "") -> Any:
    """`value`, unchanged, once pydantic finds `shape` in it. Raises `error` that says what is wrong where."""
    from pydantic import ValidationError

    try:
        _adapter(shape).validate_python(value, strict=True)
    except ValidationError as problem:
        told = problem.errors(include_url=False, include_context=False)[0]
        at = ".".join(map(str, told["loc"]))
        wanted = "a list" if told["type"] == "list_type" else "an object with keys"
        what = f"{at}: {told['msg']}" if at else f"it holds a {type(value).__name__}, not {wanted}"
        what = f"it lacks {at}" if told["type"] == "missing" else what
        raise error(f"{place} can't be read: {what}", hint=hint) from problem
    return value


def require_inside(names: Iterable[str], place: object, error: type[FastftError], hint: str = "") -> None:
    """Raises `error` if one of the paths named in a file leaves the file's folder."""
    for name in names:
        if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise error(f"{place} names the file {name!r}, which lies outside its folder", hint=hint)


def require_links_inside(folder: Path, below: Iterable[str], error: type[FastftError]) -> None:
    """Raises `error` if an entry of `folder`, or of one of its folders `below`, is a link that leads out of it.

    What is written to the entry would be written, and what is deleted of it be deleted, wherever the link leads.
    """
    home = folder.resolve()
    for place in (folder, *(folder / name for name in below)):
        for entry in place.iterdir() if place.is_dir() else ():
            if entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(home):
                raise error(
                    f"{entry} is a link that leads out of {folder}: nothing is read, written or deleted through it",
                    hint="Put what it leads to in its place; a run may as a whole lie, or be linked, elsewhere.",
                )


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(shape)
