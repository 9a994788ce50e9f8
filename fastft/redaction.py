"""Tokens, keys and passwords are left out of whatever is printed or written.

What is one is known by where it stands (a variable whose name says so, the Hub's token file, ~/.netrc) or by how it
looks (a token of the Hub, a key of a provider, a password in an address).
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"
_SHORTEST = 8  # characters of a secret; what is shorter stands in other words too
_LONG = 12  # characters of what a doubtful name has to hold
_A_LINE = 16  # characters of a line of a secret that has several
_NAMED = re.compile(
    r"TOKEN(?!S|IZ)|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?(?!_?PATH)|(API|ACCESS|PRIVATE)_?KEY|WEBHOOK"
    r"|CONN(ECTION)?_?STR(ING)?",
    re.IGNORECASE,
)
_DOUBTFUL = re.compile(r"_(KEY|PASS|PWD|PW|PAT|AUTH|JWT|DSN|COOKIE)$", re.IGNORECASE)
_ABOUT_ONE = re.compile(r"_(FILE|PATH|DIR|NAME|TYPE|LIMIT|COUNT|TTL|SECONDS|EXPIRES|EXPIRY|EXPIRATION)$", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"(?<=://)[^\s/@:\"']*:[^\s/\"']+(?=@)|(?<=://)[^\s/@:\"']{16,}(?=@)")
_IN_LIST = re.compile(r"(?:key|password|pwd|secret|signature|sig|token)=([^;&\s]+)", re.IGNORECASE)  # A=b;Password=c
_LOOKS = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"
    r"|\bA[KS]IA[A-Z0-9]{16}\b|\bglpat-[\w-]{16,}|\bxox[abprs]-[\w-]{10,}|\bgsk_[A-Za-z0-9]{20,}|\bnvapi-[\w-]{20,}"
    r"|\bAIza[\w-]{35}|\bya29\.[\w-]{20,}|\bnpm_[A-Za-z0-9]{30,}|\bpypi-[\w-]{40,}|hooks\.slack\.com/services/[\w/]{16,}"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]+-----END [A-Z ]*PRIVATE KEY"
)
_BROKEN = re.compile(r"[\s│┃|]+")  # what may stand in a text that was broken into lines, or drawn in a frame
_OF_HOME = {  # files with secrets, and where they stand in them
    "~/.netrc": r"\bpassword\s+\"?([^\s\"]+)",
    "~/_netrc": r"\bpassword\s+\"?([^\s\"]+)",
    "~/.git-credentials": r"://[^\s:@/]*:([^\s@/]+)@",
    "~/.pgpass": r":([^:\n]+)$",
    "~/.aws/credentials": r"(?:secret_access_key|session_token)\s*=\s*(\S+)",
    "~/.comet.config": r"api_key\s*=\s*(\S+)",
    "~/.config/wandb/settings": r"api_key\s*=\s*(\S+)",
    "~/.kaggle/kaggle.json": r"\"key\"\s*:\s*\"([^\"]+)",
}


def redact(text: str) -> str:
    """`text` with `***` in place of every secret."""
    known = _known(_environment())
    for secret in known:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    if "\n" in text:
        text = _without_broken(text, known)
    if "://" in text:
        text = _IN_ADDRESS.sub(HIDDEN, text)
    return _LOOKS.sub(HIDDEN, text)


def _without_broken(text: str, known: tuple[str, ...]) -> str:
    """`text` with `***` in place of every secret that lies over several of its lines."""
    whole = _bare(text)
    for secret in known:
        if (bare := _bare(secret)) in whole and len(bare) >= _SHORTEST:
            text = re.sub(rf"(?:{_BROKEN.pattern})?".join(map(re.escape, bare)), HIDDEN, text)
    return text


def _bare(text: str) -> str:
    """`text` without what `_BROKEN` matches."""
    return "".join(text.split()).replace("│", "").replace("┃", "").replace("|", "")


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
    named = (_NAMED.search, _DOUBTFUL.search)
    return tuple(
        (name, value) for name, value in os.environ.items() if "://" in value or any(is_(name) for is_ in named)
    )


@cache
def _known(variables: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """As they are and as they may be written; the longest first, as one may hold another."""
    found = {secret.strip() for secret in (*_of_variables(dict(variables)), *_of_files(dict(variables)))}
    lines = {line.strip() for secret in found for line in secret.splitlines()}  # logs are written by the line
    found |= {line for line in lines if len(line) >= _A_LINE and not line.startswith("-----")}
    written = {form for secret in found if len(secret) >= _SHORTEST for form in _written(secret)}
    return tuple(sorted((form for form in written if len(form) >= _SHORTEST), key=len, reverse=True))


def _of_variables(variables: Mapping[str, str]) -> Iterator[str]:
    for name, value in variables.items():
        if _is_secret(name, value) and not os.path.exists(value):  # noqa: PTH110  a file's name is no secret
            yield value
            yield from _IN_LIST.findall(value)
        for found in _IN_ADDRESS.finditer(value):
            yield found.group()
            yield found.group().partition(":")[2]


def _is_secret(name: str, value: str) -> bool:
    if _ABOUT_ONE.search(name):
        return False
    return bool(_NAMED.search(name)) or (bool(_DOUBTFUL.search(name)) and len(value) >= _LONG)


def _written(secret: str) -> Iterator[str]:
    """The secret as JSON, Python, an address, HTML and base64 (at any place of a longer text) write it."""
    yield from (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1])
    yield from (quote(secret), quote(secret, safe=""), quote_plus(secret), unquote(secret), escape(secret))
    raw = secret.encode("utf-8", "surrogateescape")
    for before in range(3):
        whole = slice((8 * before + 5) // 6, 8 * (before + len(raw)) // 6)  # characters made of the secret's bits alone
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(before) + raw).decode()[whole]


def _of_files(variables: Mapping[str, str]) -> Iterator[str]:
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or cache_home / "huggingface")
    yield _content(Path(variables.get("HF_TOKEN_PATH") or os.environ.get("HF_TOKEN_PATH") or home / "token"))
    stored = Path(os.environ.get("HF_STORED_TOKENS_PATH") or home / "stored_tokens")
    yield from re.findall(r"hf_token\s*=\s*(\S+)", _content(stored))
    for name, where in {**_OF_HOME, os.environ.get("NETRC", "~/.netrc"): _OF_HOME["~/.netrc"]}.items():
        yield from re.findall(where, _content(Path(os.path.expanduser(name))), re.MULTILINE)  # noqa: PTH111


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:65536]
    except OSError:
        return ""
