"""Local paths of a recipe: tried beside the recipe file first, then under the current folder; made absolute."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastft.data.readers.finding import find_files, is_glob, matching
from fastft.errors import DatasetError
from fastft.files import at_home
from fastft.recipe.callback_files import resolve_callbacks
from fastft.recipe.data_section import DATA_PATH, DataSection, SourceSection
from fastft.recipe.describe import quoted
from fastft.recipe.document import Document, KeyPath, reach
from fastft.recipe.reward_files import resolve_rewards
from fastft.recipe.schema import LoraSection, Recipe
from fastft.recipe.suggest import nearest

TINY = "fastft/tiny"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_BARE_ID = re.compile(r"[\w.-]+")
_DATA_SUFFIX = re.compile(
    r"\.(jsonl?|ndjson|csv|tsv|parquet|arrow|txt|xlsx?|ya?ml)(\.(gz|zst|bz2|xz))?$|\.(zip|gz|tar)$", re.IGNORECASE
)
_TEMPLATE_SUFFIX = re.compile(r"\.(jinja2?|j2)$")
_NOT_SHOWN = ("Cc", "Cs", "Zl", "Zp")  # categories of Unicode: control characters, halves of characters, line ends


@dataclass
class _Finder:
    """Looks for local files on behalf of a document, and remembers which of its paths were refused."""

    document: Document
    refused: set[KeyPath] = field(default_factory=set)

    @property
    def folders(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys((self.document.folder or Path.cwd(), Path.cwd())))

    def find(self, text: str) -> Path | None:
        """The first of the places at which something is, absolute."""
        return next((found for place in self._places(text) if (found := _existing(place))), None)

    def find_matches(self, pattern: str) -> Path | None:
        """The pattern, absolute, at the first of the places at which a file matches it."""
        return next((place for place in self._places(pattern) if matching(place)), None)

    def refuse(self, path: KeyPath, found: str, expected: str, hint: str = "") -> None:
        self.refused.add(path)
        self.document.add(path, found, expected, hint)

    def missing(self, path: KeyPath, text: str, wanted: str) -> None:
        places = self._places(text)
        near = next((name for place in places if (name := _near(place))), "")
        tried = " and ".join(map(str, places)).replace("\n", "\\n")
        hint = f"Tried {tried}." + (f" Did you mean {near}?" if near else "")
        self.refuse(path, f"there is no file {quoted(text)}", wanted, hint)

    def unmatched(self, path: KeyPath, pattern: str, wanted: str) -> None:
        tried = " and ".join(map(str, self._places(pattern)))
        self.refuse(path, f"no file matches {quoted(pattern)}", wanted, f"Tried {tried}.")

    def _places(self, text: str) -> list[Path]:
        given = _expanded(text)
        return [given] if given.is_absolute() else [folder / given for folder in self.folders]


def resolve_paths(recipe: Recipe, document: Document, at_fault: set[KeyPath]) -> tuple[Recipe, set[KeyPath]]:
    """The recipe with its local paths absolute, and the paths at fault with those whose file is not there.

    What is at fault already is left as it is.
    """
    finder = _Finder(document)
    model, data = recipe.model, recipe.data
    if ("model", "model_name") not in at_fault:
        model = model.model_copy(update={"model_name": _model(finder, model.model_name)})
    updates: dict[str, Any] = {
        key: resolve(finder, value)
        for key, resolve in (("eval_split", _eval_split), ("chat_template", _template))
        if isinstance(value := getattr(data, key), str) and ("data", key) not in at_fault
    }
    if not any(path[:2] == ("data", "path") for path in at_fault):
        updates["path"] = _data_path(finder, data)
    sections: dict[str, Any] = {"model": model, "data": data.model_copy(update=updates)}
    sections["lora"] = _lora(finder, recipe.lora, at_fault)
    if not any(path[:1] == ("rewards",) for path in at_fault):
        sections["rewards"] = resolve_rewards(finder, recipe.rewards)
    if not any(path[:1] == ("callbacks",) for path in at_fault):
        sections["callbacks"] = resolve_callbacks(finder, recipe.callbacks)
    output_dir = _output_dir(finder, recipe.output_dir)
    return recipe.model_copy(update={**sections, "output_dir": output_dir}), at_fault | finder.refused


def _lora(finder: _Finder, lora: LoraSection | None, at_fault: set[KeyPath]) -> LoraSection | None:
    """With the adapter to go on with as an absolute folder."""
    path: KeyPath = ("lora", "adapter_name_or_path")
    if lora is None or lora.adapter_name_or_path is None or path in at_fault:
        return lora
    found = finder.find(lora.adapter_name_or_path)
    if found is None or not found.is_dir():
        finder.missing(path, lora.adapter_name_or_path, "a run directory, or a folder with adapter_config.json")
        return lora
    return lora.model_copy(update={"adapter_name_or_path": str(found)})


def _output_dir(finder: _Finder, text: str) -> str:
    """Left relative to the current folder, as outputs are, but for `~`."""
    found = _existing(Path.cwd() / _expanded(text))
    if any(unicodedata.category(character) in _NOT_SHOWN for character in text):
        finder.refuse(("output_dir",), f"found {quoted(text)}, which a terminal would obey", "a name that can be shown")
    elif found is not None and not found.is_dir():
        finder.refuse(("output_dir",), f"found {quoted(text)}, a file", "a folder that fastft makes")
    return str(_expanded(text)) if text.startswith("~") else text


def is_local(text: str) -> bool:
    """Whether a resolved path of data is local (a file, folder or glob) rather than something on the Hub."""
    return Path(text).is_absolute()


def _model(finder: _Finder, name: str) -> str:
    if name == TINY:
        return name
    path: KeyPath = ("model", "model_name")
    found = finder.find(name)
    if found is not None and found.is_dir():
        return str(found)
    if found is not None:
        hint = "A GGUF file cannot be trained; name the model it was made from." if name.endswith(".gguf") else ""
        finder.refuse(path, f"found {quoted(name)}, a file", "a folder with config.json, or a Hub id", hint)
    elif _is_url(name):
        finder.refuse(path, f"found {quoted(name)}, an address", "a Hub id: owner/name", _hub_id_hint(name))
    elif _is_path(name):
        finder.missing(path, name, "a folder with config.json, or a Hub id (owner/name)")
    elif not (_HUB_ID.fullmatch(name) or _BARE_ID.fullmatch(name)):
        finder.refuse(path, f"found {quoted(name)}", "a Hub id (owner/name), a local folder, or fastft/tiny")
    return name


def _data_path(finder: _Finder, data: DataSection) -> str | tuple[SourceSection, ...]:
    path: KeyPath = ("data", "path")
    if isinstance(data.path, str):
        return _data(finder, path, data.path, data.split)
    return tuple(_mixed(finder, (*path, index), part, data.split) for index, part in enumerate(data.path))


def _mixed(finder: _Finder, path: KeyPath, part: SourceSection, split: str) -> SourceSection:
    """An entry of a mixture, which was written as a mapping or as the path alone."""
    here = path if isinstance(reach(finder.document.tree, path), str) else (*path, "path")
    return part.model_copy(update={"path": _data(finder, here, part.path, part.split or split)})


def _data(finder: _Finder, path: KeyPath, text: str, split: str) -> str:
    """A file, a folder with files of the split, or a glob that matches something, absolute; a Hub id as it is."""
    found = finder.find(text)
    if found is None and is_glob(text):
        found = finder.find_matches(text)
    if found is not None:
        return _readable(finder, path, text, found, split, DATA_PATH)
    if _is_url(text):
        finder.refuse(path, f"found {quoted(text)}, an address", DATA_PATH, _hub_id_hint(text))
    elif is_glob(text):
        finder.unmatched(path, text, DATA_PATH)
    elif looks_like_file(text):
        finder.missing(path, text, DATA_PATH)
    elif not _HUB_ID.fullmatch(text):
        finder.refuse(path, f"found {quoted(text)}", DATA_PATH, "A data set on the Hub is named with its owner.")
    return text


def _readable(finder: _Finder, path: KeyPath, text: str, found: Path, split: str, wanted: str) -> str:
    """The absolute path, refused unless files of a known kind are there."""
    try:
        find_files(found, split)
    except DatasetError as error:
        kind = ", a folder" if found.is_dir() else ""
        finder.refuse(path, f"found {quoted(text)}{kind}: {error.message}", wanted, error.hint)
    return str(found)


def _eval_split(finder: _Finder, text: str) -> str:
    """A file, folder or glob, absolute; the name of a split as it is."""
    path: KeyPath = ("data", "eval_split")
    wanted = "a file, a share, a count, or the name of a split"
    if not looks_like_file(text) and not is_glob(text.partition("[")[0]):
        return text
    found = finder.find(text) or (finder.find_matches(text) if is_glob(text) else None)
    if found is None:
        finder.missing(path, text, wanted)
        return text
    return _readable(finder, path, text, found, "train", wanted)


def _template(finder: _Finder, text: str) -> str:
    path: KeyPath = ("data", "chat_template")
    if _TEMPLATE_SUFFIX.search(text):
        found = finder.find(text)
        if found is None:
            finder.missing(path, text, "a .jinja file, or the name of a template (Unsloth's, TRL's, or plain)")
        return str(found or text)
    if "{%" in text or "{{" in text:
        hint = "Put the template into a file beside the recipe, e.g. chat.jinja, and name that."
        finder.refuse(path, "found a template's text", "the name of a file or of a template", hint)
    elif text not in (names := _template_names()):
        near = nearest(text, names, cutoff=0.5)
        hint = f"Did you mean {near}?" if near else "Leave it out for the model's own template."
        finder.refuse(
            path, f"found {quoted(text)}", "a .jinja file, or the name of a template (Unsloth's, TRL's, or plain)", hint
        )
    return text


def _template_names() -> list[str]:
    from fastft.data.templates import template_names

    return sorted(template_names())


def looks_like_file(text: str) -> bool:
    return _is_path(text) or _DATA_SUFFIX.search(text) is not None


def _is_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or "\\" in text or text.count("/") > 1


def _is_url(text: str) -> bool:
    return "://" in text


def _hub_id_hint(url: str) -> str:
    found = re.search(r"huggingface\.co/(?:datasets/)?([\w.-]+/[\w.-]+)|^hf://(?:datasets/)?([\w.-]+/[\w.-]+)", url)
    return f"Write {found.group(1) or found.group(2)}." if found else "Download it first, then name the file."


def _expanded(text: str) -> Path:
    try:
        return at_home(text)
    except RuntimeError:  # ~name of nobody on this machine
        return Path(text)


def _existing(place: Path) -> Path | None:
    """The place, absolute, if something is there. A text may also be no possible path: too long, or with a NUL."""
    try:
        return place.resolve() if place.exists() else None
    except (OSError, ValueError):
        return None


def _near(place: Path) -> str:
    """The name most like the missing one in its folder."""
    folder = _existing(place.parent)
    if folder is None or not folder.is_dir() or not os.access(folder, os.R_OK):
        return ""
    return nearest(place.name, (entry.name for entry in folder.iterdir()))
