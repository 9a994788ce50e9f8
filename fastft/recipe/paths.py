"""Local paths of a recipe: tried beside the recipe file first, then under the current folder; made absolute."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fastft.recipe.document import Document, KeyPath
from fastft.recipe.schema import Recipe
from fastft.recipe.suggest import listed, nearest

TINY = "fastft/tiny"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_BARE_ID = re.compile(r"[\w.-]+")
_DATA_SUFFIX = re.compile(
    r"\.(jsonl?|ndjson|csv|tsv|parquet|arrow|txt|xlsx?|ya?ml)(\.(gz|zst|bz2|xz))?$|\.(zip|gz|tar)$", re.IGNORECASE
)
_TEMPLATE_SUFFIX = re.compile(r"\.(jinja2?|j2)$")


@dataclass(frozen=True)
class _Finder:
    document: Document

    @property
    def folders(self) -> tuple[Path, ...]:
        beside = self.document.path.resolve().parent if self.document.path else Path.cwd()
        return tuple(dict.fromkeys((beside, Path.cwd())))

    def find(self, text: str) -> Path | None:
        """The first of the places at which something is, absolute."""
        places = (folder / Path(text).expanduser() for folder in self.folders)
        return next((place.resolve() for place in places if place.exists()), None)

    def missing(self, path: KeyPath, text: str, wanted: str) -> None:
        given = Path(text).expanduser()
        tried = [given] if given.is_absolute() else [folder / given for folder in self.folders]
        near = next((name for place in tried if (name := _near(place))), "")
        hint = f"Tried {' and '.join(map(str, tried))}." + (f" Did you mean {near}?" if near else "")
        self.document.add(path, f'there is no file "{text}"', wanted, hint)


def resolve_paths(recipe: Recipe, document: Document, at_fault: set[KeyPath]) -> Recipe:
    """The recipe with its local paths absolute. Files that are not there become faults of the document."""
    finder = _Finder(document)
    model, data = recipe.model, recipe.data
    if ("model", "model_name") not in at_fault:
        model = model.model_copy(update={"model_name": _model(finder, model.model_name)})
    updates = {
        key: resolve(finder, value)
        for key, resolve in (("path", _data), ("eval_split", _eval_split), ("chat_template", _template))
        if isinstance(value := getattr(data, key), str) and ("data", key) not in at_fault
    }
    if ("output_dir",) not in at_fault:
        _output_dir(finder, recipe.output_dir)
    return recipe.model_copy(update={"model": model, "data": data.model_copy(update=updates)})


def _output_dir(finder: _Finder, text: str) -> None:
    if Path(text).expanduser().is_file():
        finder.document.add(("output_dir",), f'found "{text}", a file', "a folder that fastft makes")


def is_local(text: str) -> bool:
    """Whether a resolved data.path or data.eval_split is a local file rather than something on the Hub."""
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
        finder.document.add(path, f'found "{name}", a file', "a folder with config.json, or a Hub id", hint)
    elif _is_url(name):
        finder.document.add(path, f'found "{name}", an address', "a Hub id: owner/name", _hub_id_hint(name))
    elif _is_path(name):
        finder.missing(path, name, "a folder with config.json, or a Hub id (owner/name)")
    elif not (_HUB_ID.fullmatch(name) or _BARE_ID.fullmatch(name)):
        finder.document.add(path, f'found "{name}"', "a Hub id (owner/name), a local folder, or fastft/tiny")
    return name


def _data(finder: _Finder, text: str) -> str:
    path: KeyPath = ("data", "path")
    wanted = "a local .jsonl, .json, .csv or .parquet file, or a Hub id (owner/name)"
    found = finder.find(text)
    if found is not None and found.is_file():
        return str(found)
    if found is not None:
        inside = [entry.name for entry in sorted(found.iterdir()) if _DATA_SUFFIX.search(entry.name)]
        hint = f"It holds {listed(inside, limit=6)}." if inside else ""
        finder.document.add(path, f'found "{text}", a folder', wanted, hint)
    elif _is_url(text):
        finder.document.add(path, f'found "{text}", an address', wanted, _hub_id_hint(text))
    elif looks_like_file(text):
        finder.missing(path, text, wanted)
    elif not _HUB_ID.fullmatch(text):
        finder.document.add(path, f'found "{text}"', wanted, "A data set on the Hub is named with its owner.")
    return text


def _eval_split(finder: _Finder, text: str) -> str:
    if not looks_like_file(text):
        return text
    found = finder.find(text)
    if found is None:
        finder.missing(("data", "eval_split"), text, "a file, a share, a count, or the name of a split on the Hub")
    return str(found or text)


def _template(finder: _Finder, text: str) -> str:
    path: KeyPath = ("data", "chat_template")
    if _TEMPLATE_SUFFIX.search(text):
        found = finder.find(text)
        if found is None:
            finder.missing(path, text, "a .jinja file, or the name of a template Unsloth knows")
        return str(found or text)
    if "{%" in text or "{{" in text:
        hint = "Put the template into a file beside the recipe, e.g. chat.jinja, and name that."
        finder.document.add(path, "found a template's text", "the name of a file or of a template", hint)
    elif text not in (names := _template_names()):
        near = nearest(text, names, cutoff=0.5)
        hint = f"Did you mean {near}?" if near else "Leave it out for the model's own template."
        finder.document.add(path, f'found "{text}"', "a .jinja file, or the name of a template Unsloth knows", hint)
    return text


def _template_names() -> list[str]:
    from fastft.data.templates import unsloth_tables

    return sorted(unsloth_tables()[0])


def looks_like_file(text: str) -> bool:
    return _is_path(text) or _DATA_SUFFIX.search(text) is not None


def _is_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or "\\" in text or text.count("/") > 1


def _is_url(text: str) -> bool:
    return "://" in text


def _hub_id_hint(url: str) -> str:
    found = re.search(r"huggingface\.co/(?:datasets/)?([\w.-]+/[\w.-]+)|^hf://(?:datasets/)?([\w.-]+/[\w.-]+)", url)
    return f"Write {found.group(1) or found.group(2)}." if found else "Download it first, then name the file."


def _near(place: Path) -> str:
    """The name most like the missing one in its folder."""
    if not place.parent.is_dir():
        return ""
    return nearest(place.name, (entry.name for entry in place.parent.iterdir()))
