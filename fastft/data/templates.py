"""Where a chat template comes from: the model's folder, a jinja file, or a name that Unsloth, TRL or fastft knows."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastft.errors import ModelError
from fastft.reading import read_json

PLAIN = "plain"  # fastft's own, for base models that have none
_TRL = "trl:"


def find_template(folder: Path, config: Mapping[str, Any], chat_template: str | None) -> str:
    """The jinja source of `chat_template`: None = the model's own, `*.jinja` = a file, else a name (`template_names`).

    Raises ModelError if there is no such template.
    """
    if chat_template is None:
        return _model_template(folder, config)
    if chat_template.endswith((".jinja", ".jinja2", ".j2")):
        return _template_file(Path(chat_template))
    return named_template(chat_template)


def template_names() -> list[str]:
    """Every name that data.chat_template takes: Unsloth's, TRL's file stems, and `plain`.

    Where both have a template of one name, Unsloth's is meant by it, and TRL's by `trl:NAME`.
    """
    trl = trl_templates()
    return sorted({PLAIN, *unsloth_tables()[0], *trl, *(f"{_TRL}{name}" for name in trl)})


def named_template(name: str) -> str:
    """The jinja source of one of `template_names`. Raises ModelError with the nearest names for another."""
    if name == PLAIN:
        return _template_file(Path(__file__).with_name("plain.jinja"))
    if name in unsloth_tables()[0]:
        return unsloth_template(name)
    file = trl_templates().get(name.removeprefix(_TRL))
    if file is not None:
        return _template_file(file)
    names = template_names()
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    raise ModelError(
        f"data.chat_template: {name!r} is neither a .jinja file nor a template of Unsloth's or TRL's",
        hint=f"Nearest: {', '.join(near)}." if near else f"Known names: {', '.join(names)}.",
    )


@lru_cache(maxsize=1)
def trl_templates() -> dict[str, Path]:
    """The chat templates in TRL's package by file stem ("qwen3", "qwen3_training"), found without importing trl.

    Those that end in "_training" mark what the model generates with `{% generation %}`.
    """
    spec = importlib.util.find_spec("trl")
    if spec is None or spec.origin is None:
        raise ModelError("trl is not installed", hint="Install fastft with its dependencies: uv sync.")
    return {file.stem: file for file in sorted((Path(spec.origin).parent / "chat_templates").glob("*.jinja"))}


def _template_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(
            f"data.chat_template: cannot read {path} ({error.strerror})",
            hint="Give the path of a jinja file, a name Unsloth or TRL knows, or leave it out.",
        ) from error
    except UnicodeDecodeError as error:
        raise ModelError(f"data.chat_template: {path} is not UTF-8 text (byte {error.start})") from error


def _model_template(folder: Path, config: Mapping[str, Any]) -> str:
    """In the order transformers looks: chat_template.jinja, chat_template.json, then tokenizer_config.json."""
    jinja_file = folder / "chat_template.jinja"
    if jinja_file.is_file():
        return _template_file(jinja_file)
    json_file = folder / "chat_template.json"
    found: Any = config.get("chat_template")
    if json_file.is_file():
        found = read_json(json_file, ModelError).get("chat_template", found)
    if isinstance(found, list):
        named = (entry for entry in found if isinstance(entry, dict) and entry.get("name") == "default")
        found = next((entry.get("template") for entry in named), None)
    if not isinstance(found, str):
        raise ModelError(
            f"the model in {folder} has no chat template",
            hint="It is a base model. Set data.chat_template: plain, which needs no token but the end of text it knows,"
            " or the template of a family whose tokens it has, for example chatml.",
        )
    return found


def unsloth_template(name: str) -> str:
    """The jinja source of an entry of Unsloth's CHAT_TEMPLATES, with Unsloth's default system message filled in."""
    templates, system_messages = unsloth_tables()
    system = system_messages.get(name)
    return templates[name] if system is None else templates[name].replace("{system_message}", _jinja_literal(system))


def _jinja_literal(text: str) -> str:
    """`text` escaped as Unsloth does it: the placeholder stands inside a quoted jinja literal."""
    return text.replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"').replace("\r", "\\r")


@lru_cache(maxsize=1)
def unsloth_tables() -> tuple[dict[str, str], dict[str, str | None]]:
    """Unsloth's CHAT_TEMPLATES (name -> jinja source) and DEFAULT_SYSTEM_MESSAGE, read without importing unsloth.

    Importing unsloth takes 14 s and torch; the tables are made of constants, so evaluating the assignments that
    lead to them gives the same text. tests/data/test_templates.py compares with the real import.
    """
    spec = importlib.util.find_spec("unsloth")
    if spec is None or spec.origin is None:
        raise ModelError("unsloth is not installed", hint="Install fastft with its dependencies: uv sync.")
    source = (Path(spec.origin).parent / "chat_templates.py").read_text(encoding="utf-8")
    reader = _ConstantReader()
    for statement in ast.parse(source).body:
        reader.run(statement)
    templates = {name: entry[0] for name, entry in reader.tables["CHAT_TEMPLATES"].items()}
    return templates, reader.tables["DEFAULT_SYSTEM_MESSAGE"]


class _ConstantReader:
    """Evaluates the assignments of a module that are made of constants, names, sums, tuples and table look-ups."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.tables: dict[str, dict[str, Any]] = {"CHAT_TEMPLATES": {}, "DEFAULT_SYSTEM_MESSAGE": {}}

    def run(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            self._assign(statement.targets[0], statement.value)
        elif isinstance(statement, ast.For) and isinstance(statement.target, ast.Name):
            for value in self._value(statement.iter) or ():
                self.names[statement.target.id] = value
                for inner in statement.body:
                    self.run(inner)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name) and target.id not in self.tables:
            self.names[target.id] = self._value(value)
        elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            table = self.tables.get(target.value.id)
            if table is not None:
                table[self._value(target.slice)] = self._value(value)

    def _value(self, node: ast.expr) -> Any:
        """The constant, or None for an expression that is none (the Ollama column, functions)."""
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return self.names.get(name)
            case ast.Tuple(elts=items):
                return tuple(self._value(item) for item in items)
            case ast.Subscript(value=ast.Name(id=table), slice=key) if table in self.tables:
                return self.tables[table].get(self._value(key))
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                first, second = self._value(left), self._value(right)
                return first + second if isinstance(first, str) and isinstance(second, str) else None
        return None
