"""Reading a tokenizer's files, and refusing folders whose files don't belong together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired

from typing_extensions import TypedDict

from fastft.errors import ModelError
from fastft.reading import read_json as read_object
from fastft.reading import require_shape

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_FROM_THE_MODEL = "It is a file of the model's; get it again from where the model came from."
_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")
_MOST_BYTES = 1 << 30  # of tokenizer.json; the largest known have 40 MB


class _Token(TypedDict):
    content: str


class _Tokens(TypedDict):
    """What is read of tokenizer_config.json and special_tokens_map.json."""

    bos_token: NotRequired[str | _Token | None]
    eos_token: NotRequired[str | _Token | None]
    pad_token: NotRequired[str | _Token | None]
    unk_token: NotRequired[str | _Token | None]
    added_tokens_decoder: NotRequired[dict[str, str | _Token]]


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`, {} if the file is absent. Raises ModelError if it is no JSON object."""
    return read_object(path, ModelError, _FROM_THE_MODEL) if path.exists() else {}


def read_backend(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json",
            hint="fastft needs the fast tokenizer; AutoTokenizer.from_pretrained(...).save_pretrained(...) writes it.",
        )
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise ModelError(f"{path} is not a tokenizer: it has {size:,} bytes", hint=_FROM_THE_MODEL)
    try:
        backend = Tokenizer.from_file(str(path))
    # The Rust library raises plain Exception for a file it can't read, and what panics in it is a BaseException.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ModelError(f"{path} is not a tokenizer: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def check_added_tokens(backend: Tokenizer, config: Mapping[str, Any], folder: Path) -> None:
    """tokenizer_config.json may list added tokens again; other ids there mean two vocabularies in one folder."""
    for key, entry in _known(config, folder).get("added_tokens_decoder", {}).items():
        content = entry["content"] if isinstance(entry, dict) else entry
        if str(backend.token_to_id(content)) != key:
            raise ModelError(
                f"{folder}: tokenizer_config.json gives {content!r} the id {key}, "
                f"tokenizer.json {backend.token_to_id(content)}"
            )


def special_tokens(
    config: Mapping[str, Any], token_map: Mapping[str, Any], backend: Tokenizer, folder: Path
) -> dict[str, str | None]:
    """bos, eos, pad and unk by name; entries are strings or objects with `content`. Raises ModelError if unknown."""
    found: dict[str, str | None] = {}
    for name in _NAMED:
        entry = _known(config, folder).get(name, _known(token_map, folder).get(name))
        token = entry.get("content") if isinstance(entry, dict) else entry
        if token is not None and backend.token_to_id(token) is None:
            raise ModelError(f"{folder}: {name} is {token!r}, which is not in tokenizer.json")
        found[name] = token
    return found


def _known(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What `config` says of tokens, once each is a text or an object with one. Raises ModelError."""
    found = {name: config[name] for name in (*_NAMED, "added_tokens_decoder") if name in config}
    return require_shape(found, _Tokens, f"{folder}: tokenizer_config.json or special_tokens_map.json", ModelError)
