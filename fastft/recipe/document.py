"""A recipe as written: plain values, and for each of them the place it was written at."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fastft.data.readers import kind_of
from fastft.errors import Fault, RecipeError
from fastft.recipe import yaml_text
from fastft.recipe.suggest import nearest

KeyPath = tuple[str | int, ...]

MISSING = object()
_MOST_BYTES = 250_000
_MOST_VALUES = 20_000  # with aliases written out: nine lines of them can stand for a billion values
_MOST_DEPTH = 40
# How rows in JSON begin: a list of objects, or an object a line.
_ROWS = re.compile(r"\s*(\[\s*\{|\{.*\}[ \t]*\r?\n\s*\{)")
_YAML_HINTS = (
    ("cannot start any token", "YAML indents with spaces, never tabs; a text that begins with @, ` or % needs quotes."),
    ("mapping values are not allowed", "A text with `: ` in it needs quotes; else the indentation is off here."),
    ("could not find expected ':'", "A key lacks its colon, on this line or the one before."),
    ("found unknown escape", "In double quotes a backslash escapes; write the text in 'single quotes'."),
    ("while scanning a quoted scalar", "A quote is opened and never closed."),
    ("expected the node content", "A bracket, brace or comma stands where a value should."),
    ("expected <block end>", "This line is indented unlike its neighbours, or a quote or bracket is not closed."),
    ("expected ',' or", "A bracket or brace is opened and not closed, or a comma is missing."),
    ("expected a single document", "A recipe is one document: leave out the `---` between parts."),
)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something was written. `line` orders places: lines of the file first, then overrides."""

    line: int
    text: str
    override: str = ""  # the dotted key, if an override wrote it


@dataclass
class Document:
    """`tree` holds the values; `places` says where each path was written; `faults` what reading alone showed."""

    name: str
    tree: dict[str, Any]
    places: dict[KeyPath, Place]
    path: Path | None = None
    folder: Path | None = None  # where relative paths are tried before the current folder
    faults: list[tuple[Place, Fault]] = field(default_factory=list)
    unreadable: set[KeyPath] = field(default_factory=set)  # null stands in the tree for what could not be read

    def place(self, path: KeyPath) -> Place:
        """The place of a path, or of the nearest part of it that was written."""
        prefixes = (path[:n] for n in range(len(path), 0, -1))
        return next((self.places[p] for p in prefixes if p in self.places), Place(0, self.name))

    def where(self, path: KeyPath) -> str:
        """ "recipe.yaml:12 training.learning_rate", or "override training.learning_rate=5"."""
        place, key = self.place(path), dotted(path)
        said = place.override and key.partition("[")[0] == place.override
        return place.text if said else f"{place.text} {key}".rstrip()

    def add(self, path: KeyPath, found: str, expected: str, hint: str = "") -> None:
        self.faults.append((self.place(path), Fault(self.where(path), found, expected, hint.removesuffix("."))))

    def has(self, path: KeyPath) -> bool:
        """Whether the path was written, in the file or in an override."""
        return reach(self.tree, path) is not MISSING


def dotted(path: KeyPath) -> str:
    """("export", "formats", 0) as export.formats[0]"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def reach(tree: Any, path: KeyPath) -> Any:
    """The value at a path of nested dicts and lists, or MISSING."""
    for part in path:
        inside: Any = dict(enumerate(tree)) if isinstance(tree, list) else tree
        if not isinstance(inside, Mapping) or part not in inside:
            return MISSING
        tree = inside[part]
    return tree


def read_file(path: Path) -> Document:
    """Read a recipe file. Raises RecipeError if it is no readable YAML mapping; finer faults go into the document."""
    text = _read_text(path)
    try:
        root = yaml_text.compose(text)
    except yaml.YAMLError as error:
        if _ROWS.match(text):
            raise _data_file(path) from error
        raise _syntax_error(path, error) from error
    except RecursionError as error:
        raise RecipeError(f"{path} is nested too deeply to be a recipe") from error
    except ValueError as error:  # PyYAML's own, for an escape of no character
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if root is None:
        raise RecipeError(f"{path} is empty", hint="Start from recipes/qlora_chat.yaml: copy it and edit it.")
    if isinstance(root, yaml.SequenceNode) and _ROWS.match(text):
        raise _data_file(path)
    if not isinstance(root, yaml.MappingNode):
        kind = "a list" if isinstance(root, yaml.SequenceNode) else "a single text"
        raise RecipeError(
            f"{path}:{root.start_mark.line + 1}: the recipe is {kind}; expected sections such as `model:` and `data:`"
        )
    document = Document(path.name, {}, {}, path, path.resolve().parent)
    try:
        document.tree = _NodeReader(document).value(root, ())
    except ValueError as error:
        raise RecipeError(f"{path} {error}") from error
    return document


def read_value(node: yaml.Node) -> Any:
    """The plain value of a node that stands alone. Raises ValueError where a recipe file would have a fault."""
    document = Document("", {}, {})
    value = _NodeReader(document).value(node, ())
    if document.faults:
        raise ValueError(document.faults[0][1].found)
    return value


def from_mapping(values: Mapping[str, Any], folder: Path | None = None) -> Document:
    """A document from Python values; their place is "recipe"."""
    if faulty := [key for key in values if not isinstance(key, str)]:
        raise RecipeError(f"the recipe has keys that are no texts: {faulty!r}")
    return Document("recipe", plain(values), {}, folder=folder)


def plain(value: Any, depth: int = 0) -> Any:
    """Nested mappings and sequences as dicts and lists, copied, so that overrides never reach the caller's own.

    Raises RecipeError for what no file could hold: too deep a nesting (or one that holds itself), halves of characters.
    """
    if depth > _MOST_DEPTH:
        raise RecipeError("the recipe is nested too deeply to be one, or holds itself")
    if isinstance(value, Mapping):
        return {plain(key, depth + 1): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, str) and (half := yaml_text.HALF.search(value)):
        raise RecipeError(f"the recipe holds U+{ord(half[0]):04X}, half of a character: {value[:40]!r}")
    return str(value) if isinstance(value, Path) else value


def _read_text(path: Path) -> str:
    if (path / "manifest.json").is_file() or (path / "start.json").is_file():
        raise RecipeError(
            f"{path} is a run directory, not a recipe",
            hint=f"To go on with the run: `fastft train {_quoted(path)} --resume`. To train its recipe anew: "
            f"`fastft train {_quoted(path / 'recipe.yaml')} --new`.",
        )
    if path.is_file() and kind_of(path) not in ("", ".json"):  # JSON is YAML, so a recipe may be written in it
        raise _data_file(path)
    if path.is_dir():
        raise RecipeError(f"{path} is a folder; expected a recipe file", hint=_recipes_in(path))
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise RecipeError(f"{path} has {size:,} bytes; that is no recipe")
        if not path.is_file():  # reading a pipe or a device may never end
            raise RecipeError(f"{path} is a pipe or a device; expected a recipe file")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe at {path}", hint=_recipes_near(path)) from None
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RecipeError(
            f"{path}:{line}: not UTF-8 text (byte 0x{error.object[error.start]:02x})",
            hint="Save the file as UTF-8 in your editor.",
        ) from error


def _data_file(path: Path) -> RecipeError:
    hint = f"A recipe names it in data.path. Copy recipes/qlora_chat.yaml and write there: data: {{path: {path}}}."
    return RecipeError(f"{path} looks like a data file, not a recipe", hint=hint)


def _quoted(path: Path) -> str:
    """As a shell takes it."""
    return shlex.quote(str(path))


def _recipes_in(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".yaml", ".yml"))
    return f"It holds: {', '.join(names[:8])}." if names else ""


def _recipes_near(path: Path) -> str:
    if not path.parent.is_dir():
        return f"The folder {path.parent} does not exist either (current folder: {Path.cwd()})."
    names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    near = nearest(path.name, names)
    return f"Did you mean {path.with_name(near)}?" if near else _recipes_in(path.parent)


def _syntax_error(path: Path, error: yaml.YAMLError) -> RecipeError:
    text = str(error)
    hint = next((hint for part, hint in _YAML_HINTS if part in text), "")
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        if "found character '\\t'" not in text:
            hint = hint.replace("YAML indents with spaces, never tabs; a", "A")
        return RecipeError(f"{path}:{mark.line + 1}:{mark.column + 1}: not valid YAML: {error.problem}", hint=hint)
    return RecipeError(f"{path}: not valid YAML: {text.splitlines()[0]}", hint=hint)


class _NodeReader:
    """Fills a document from nodes: values, each path's line, and the faults that are gone once dicts are made."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._open: set[int] = set()  # nodes being read, to stop at an alias of one of them
        self._values = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        """The node's value. Raises ValueError for more, or deeper ones, than a recipe can have."""
        self._values += 1
        if self._values > _MOST_VALUES:
            raise ValueError(f"holds more than {_MOST_VALUES:,} values; that is no recipe")
        if len(path) > _MOST_DEPTH:
            raise ValueError("is nested too deeply to be a recipe")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            return self._unreadable(path, "holds itself through an alias", "")
        self._open.add(id(node))
        made = self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._sequence(node, path)
        self._open.discard(id(node))
        return made

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, here = key_node.value, self._place(key_node)
            if not isinstance(key_node, yaml.ScalarNode) or not key or yaml_text.HALF.search(key):
                where = f"{here.text} {dotted(path)}".rstrip()
                self.document.faults.append((here, Fault(where, "a key that is no text", "keys that are plain words")))
            elif key in made:
                found = f"written twice (first on line {self.document.places[(*path, key)].line})"
                fault = Fault(f"{here.text} {dotted((*path, key))}", found, "each key once", "Keep one of them")
                self.document.faults.append((here, fault))
            else:
                self.document.places[(*path, key)] = here
                made[key] = self.value(value_node, (*path, key))
        return made

    def _sequence(self, node: yaml.Node, path: KeyPath) -> list[Any]:
        made = []
        for index, item in enumerate(node.value):
            self.document.places[(*path, index)] = self._place(item)
            made.append(self.value(item, (*path, index)))
        return made

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        try:
            return yaml_text.scalar(node)
        except ValueError as error:
            return self._unreadable(path, f"found {error}", "Leave out the tag.")

    def _unreadable(self, path: KeyPath, found: str, hint: str) -> None:
        self.document.unreadable.add(path)
        self.document.add(path, found, "a plain value", hint)

    def _place(self, node: yaml.Node) -> Place:
        line = node.start_mark.line + 1
        return Place(line, f"{self.document.name}:{line}")
