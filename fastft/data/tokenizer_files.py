"""Reading a tokenizer's files, and refusing folders whose files don't belong together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`, {} if the file is absent. Raises ModelError if it is no JSON object."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value


def read_backend(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json",
            hint="fastft needs the fast tokenizer; AutoTokenizer.from_pretrained(...).save_pretrained(...) writes it.",
        )
    try:
        backend = Tokenizer.from_file(str(path))
    # The Rust library raises plain Exception for a file it can't read.
    except Exception as error:
        raise ModelError(f"{path} is not a tokenizer: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def check_added_tokens(backend: Tokenizer, config: Mapping[str, Any], folder: Path) -> None:
    """tokenizer_config.json may list added tokens again; other ids there mean two vocabularies in one folder."""
    for key, entry in config.get("added_tokens_decoder", {}).items():
        content = entry["content"] if isinstance(entry, dict) else str(entry)
        if backend.token_to_id(content) != int(key):
            raise ModelError(
                f"{folder}: tokenizer_config.json gives {content!r} the id {key}, "
                f"tokenizer.json {backend.token_to_id(content)}"
            )


def special_tokens(
    config: Mapping[str, Any], token_map: Mapping[str, Any], backend: Tokenizer, folder: Path
) -> dict[str, str | None]:
    """bos, eos, pad and unk by name; entries are strings or objects with `content`. Raises ModelError if unknown."""
    found: dict[str, str | None] = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        entry = config.get(name, token_map.get(name))
        token = entry.get("content") if isinstance(entry, dict) else entry
        if token is not None and backend.token_to_id(token) is None:
            raise ModelError(f"{folder}: {name} is {token!r}, which is not in tokenizer.json")
        found[name] = token
    return found
