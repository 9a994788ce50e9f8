"""A GGUF file behind llama.cpp's own server, with its OpenAI endpoints and its web page: a child process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastft.child import python_running
from fastft.data.template_trial import require_end
from fastft.errors import ModelError
from fastft.host_memory import free_memory
from fastft.llama_server import parameters, start
from fastft.llamacpp import GGUFModel, threads_for
from fastft.serving import Place, require_trained_for

_SLOTS = 4  # requests answered at once; they share the context
_ALL_SET = (
    1 << 12
) - 1  # bits of llama.cpp's COMMON_PARAMS_SAMPLING_CONFIG_*: nothing is taken from the file's metadata
_CACHE_SHARE = 0.5  # of the free memory, for keys and values
_LEAST = 512  # tokens of context, whatever the memory


class LlamaServing:
    """llama.cpp's server with one model, in a child process: in this one it would not end while it answers.

    Raises ModelError if the file is no GGUF, RecipeError for too long a context.
    """

    def __init__(self, path: Path, name: str, place: Place, n_ctx: int | None) -> None:
        with GGUFModel(path) as model:
            metadata = model.metadata
            require_end(model.chat_template, path)
        self._path, self._page = path, place.address
        self._trained = int(metadata.get(f"{metadata['general.architecture']}.context_length", _LEAST))
        self._n_ctx = _context(path, metadata, self._trained, n_ctx)
        self._process = subprocess.Popen(
            python_running(__name__),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # a Ctrl-C reaches us alone, and it is us who end it
        )
        order = {"path": str(path), "name": name, "n_ctx": self._n_ctx, "private": place.is_private, **asdict(place)}
        assert self._process.stdin is not None
        # The key goes this way so that no list of processes shows it.
        with contextlib.suppress(BrokenPipeError):  # it died at once: `check` says why
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()

    @property
    def facts(self) -> dict[str, str]:
        short = f" of the model's {self._trained}" if self._n_ctx < self._trained else ""
        return {"context": f"{self._n_ctx}{short} tokens", "web page": self._page}

    def check(self) -> None:
        if self._process.poll() is None:
            return
        assert self._process.stdout is not None
        why = self._process.stdout.read().strip() or f"exit code {self._process.returncode}"
        raise ModelError(
            f"llama.cpp's server has ended with {self._path}: {why}",
            hint=f"Where memory was short, take a context of less than {self._n_ctx} tokens: --n-ctx.",
        )

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()


def _child() -> None:
    """Serve what the first line of stdin says, until stdin ends: it ends with the parent, however that ended."""
    order = json.loads(sys.stdin.readline())
    path = Path(order["path"])
    params = parameters(path, order["n_ctx"], threads_for(path))
    params.no_extra_bufts = False  # repacked weights answer faster, for a second copy of some
    params.hostnames, params.port = [order["host"]], order["port"]
    params.api_keys = [order["key"]] if order["key"] else []
    params.model_alias = {order["name"]}
    params.n_parallel, params.kv_unified = _SLOTS, True
    params.cache_ram_mib = 0
    # Pages of other sites, open in a browser here, must not use a server that is meant for this machine.
    params.cors_origins = "localhost" if order["private"] else "*"
    _greedy(params.sampling)
    try:
        server = start(params)
    except ModelError as error:
        print(error.message)
        sys.exit(1)
    sys.stdin.read()
    assert server is not None  # lives until here
    os._exit(0)  # its destructor waits for answers under way


def _greedy(sampling: Any) -> None:
    """What a request leaves open: greedy; and where it asks for a temperature, nothing narrows the choice unasked."""
    sampling.temp, sampling.top_k, sampling.top_p, sampling.min_p = 0.0, 0, 1.0, 0.0
    sampling.penalty_repeat = 1.0
    sampling.user_sampling_config = _ALL_SET


def _context(path: Path, metadata: dict[str, str], trained: int, asked: int | None) -> int:
    """Tokens: as asked, otherwise the model's own, or as many as memory holds keys and values for."""
    if asked is not None:
        require_trained_for(asked, trained, path)
        return asked
    room = int(_CACHE_SHARE * max(free_memory() - path.stat().st_size, 0)) // _bytes_a_token(metadata)
    return min(trained, max(room // 256 * 256, _LEAST))


def _bytes_a_token(metadata: dict[str, str]) -> int:
    """Of the keys and values of one token, 16 bits each, in all layers."""

    def number(key: str, default: int) -> int:
        return int(metadata.get(f"{metadata['general.architecture']}.{key}", default))

    heads = number("attention.head_count", 1)
    width = number("embedding_length", 1) // heads
    lengths = number("attention.key_length", width) + number("attention.value_length", width)
    return max(2 * number("block_count", 1) * number("attention.head_count_kv", heads) * lengths, 1)


if __name__ == "__main__":
    _child()
