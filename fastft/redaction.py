"""Tokens, keys and passwords are left out of whatever is printed or written.

What is one is known by where it stands (a variable whose name says so, the Hub's token file, ~/.netrc) or by how it
looks (a token of the Hub, a key of a provider, a password in an address).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

HIDDEN = "***"
_SHORTEST = 8  # characters of a secret; what is shorter stands in other words too
_NAMED = re.compile(
    r"(TOKEN|API_?KEY|ACCESS_?KEY(_ID)?|SECRET|SECRET_?KEY|PRIVATE_?KEY|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE
)
_IN_ADDRESS = re.compile(r"(?<=://)[^\s/@:\"']*:[^\s/@\"']+(?=@)|(?<=://)[^\s/@:\"']{16,}(?=@)")
_LOOKS = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bAKIA[A-Z0-9]{16}\b"
    r"|\bglpat-[\w-]{16,}|\bxox[abprs]-[\w-]{10,}"
)


def redact(text: str) -> str:
    """`text` with `***` in place of every secret."""
    if "://" in text:
        text = _IN_ADDRESS.sub(HIDDEN, text)
    text = _LOOKS.sub(HIDDEN, text)
    for secret in _known(_environment()):
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text


def holds_secret(text: str) -> bool:
    return redact(text) != text


def redact_file(path: Path) -> None:
    """Rewrite a text file that holds a secret without it; others are left as they are."""
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return
    shown = redact(text)
    if shown != text:
        path.write_bytes(shown.encode("utf-8", "surrogateescape"))


def _environment() -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in os.environ.items() if "://" in value or _NAMED.search(name))


@cache
def _known(variables: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """The longest first, as one may hold another."""
    found = {secret.strip() for secret in (*_of_variables(dict(variables)), *_of_files(dict(variables)))}
    return tuple(sorted((secret for secret in found if len(secret) >= _SHORTEST), key=len, reverse=True))


def _of_variables(variables: Mapping[str, str]) -> Iterator[str]:
    for name, value in variables.items():
        if _NAMED.search(name) and not os.path.exists(value):  # noqa: PTH110  a file's name is no secret; any text may come
            yield value
        for found in _IN_ADDRESS.finditer(value):
            yield found.group()
            yield found.group().rpartition(":")[2]


def _of_files(variables: Mapping[str, str]) -> Iterator[str]:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    token = Path(variables.get("HF_TOKEN_PATH") or os.environ.get("HF_TOKEN_PATH") or home / "token")
    yield _content(token)
    for name in (".netrc", "_netrc"):
        yield from re.findall(r"\bpassword\s+(\S+)", _content(Path.home() / name))


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:65536]
    except OSError:
        return ""
