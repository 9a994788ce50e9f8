"""Whether llama.cpp survives a GGUF file: tried in a process of its own, because it ends the whole process where a
damaged or hostile file breaks one of its assertions.

    python -m fastft.gguf_trial MODEL [LORA]     loads, tokenises and computes one token; its exit code is of no matter
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from fastft.errors import ModelError

_SECONDS = 900  # a file of 100 GB on a slow disk takes minutes
_TRIED = "FASTFT_GGUF_TRIAL"  # set in the process that tries, which must not try again


def require_survivable(path: Path, lora: Path | None = None) -> None:
    """Raises ModelError if llama.cpp crashes over `path`, or never ends. Other errors are for the real load to tell."""
    if _TRIED not in os.environ:
        _try(*(_state(file) for file in (path, lora) if file is not None))


def _state(file: Path) -> tuple[str, int, int]:
    """A file that was changed is tried again."""
    found = file.stat()
    return str(file), found.st_size, found.st_mtime_ns


@lru_cache(maxsize=64)
def _try(*files: tuple[str, int, int]) -> None:
    names = [name for name, _, _ in files]
    command = [sys.executable, "-m", "fastft.gguf_trial", *names]
    try:
        done = subprocess.run(
            command, env={**os.environ, _TRIED: "1"}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise _refused(names[0], f"it came to no end in {_SECONDS} s") from error
    if done.returncode < 0:
        lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        said = next((line for line in lines if "ASSERT" in line or "what()" in line), "")
        raise _refused(names[0], f"it crashed ({signal.Signals(-done.returncode).name}) {said}".rstrip())


def _refused(name: str, why: str) -> ModelError:
    return ModelError(
        f"llama.cpp can't load {name}: {why}",
        hint="The file is damaged, or made for another llama.cpp: get it again, or export it again.",
    )


def main() -> None:
    """Whatever can be done with the file, once. Errors that are told are no crash."""
    from fastft.llamacpp import GGUFModel

    model, *lora = map(Path, sys.argv[1:])
    with suppress(ModelError), GGUFModel(model, n_ctx=64, lora=lora[0] if lora else None) as opened:
        _ = opened.metadata
        ids = opened.tokenize("Hello, world. 1 2") or [0]
        opened.detokenize(ids, special=True)
        opened.is_stop(ids[-1])
        next(iter(opened.logits(ids[:2])))
    os._exit(0)  # without destructors, which are no part of the trial


if __name__ == "__main__":
    main()
