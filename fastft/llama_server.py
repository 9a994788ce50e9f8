"""llama.cpp's chat endpoint, in this process: its template engine, its stop tokens, its streaming."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastft.errors import ModelError
from fastft.inference import StopReason
from fastft.sampling import Sampling

Messages = Sequence[Mapping[str, Any]]
OnText = Callable[[str], bool]  # gets each piece of an answer; False breaks it off


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What the endpoint answered, with the prompt it made of the messages.

    `prompt` is the text of the tokens that were fed, control tokens and any BOS the tokenizer added included;
    `prompt_tokens` is their number.
    """

    text: str
    prompt: str
    prompt_tokens: int
    stop_reason: StopReason


def parameters(path: Path, n_ctx: int, threads: int) -> Any:
    """xllamacpp's CommonParams for the model at `path`, quiet and as lean as can be."""
    params = _xllamacpp().CommonParams()
    params.model.path = str(path)
    params.n_ctx = n_ctx
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity = -1
    params.fit_params = False
    params.no_extra_bufts = True  # no second, repacked copy of the weights
    return params


def start(params: Any) -> Any:
    """xllamacpp's Server, which listens once this returns. Raises ModelError if it does not start."""
    try:
        return _xllamacpp().Server(params)
    except RuntimeError as error:
        raise ModelError(
            f"llama.cpp's chat server does not start with {params.model.path}: {error}",
            hint="Where the file itself loads, it is the chat template in it that llama.cpp can't parse.",
        ) from error


def _xllamacpp() -> Any:
    return importlib.import_module("xllamacpp")  # an extension module that no checker can see into


class ChatServer:
    """xllamacpp's Server with one model. Raises ModelError if it does not start.

    It always listens on a free port of the loopback interface too; a random key keeps others out there.
    """

    def __init__(self, path: Path, n_ctx: int, threads: int) -> None:
        params = parameters(path, n_ctx, threads)
        params.ui = params.warmup = False
        params.cache_ram_mib = 0
        params.api_keys = [secrets.token_hex(16)]
        self._n_ctx = n_ctx
        self._server = start(params)

    def reply(
        self,
        messages: Messages,
        on_text: OnText | None,
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        max_tokens: int,
        sampling: Sampling,
    ) -> ChatReply:
        """One answer. Raises ModelError if llama.cpp refuses the request."""
        request: dict[str, Any] = {
            "messages": [dict(message) for message in messages],
            "max_tokens": max_tokens,
            **sampling.for_llama_cpp(self._n_ctx),
            "verbose": True,  # tells the prompt
            "cache_prompt": on_text is not None,
            "stream": on_text is not None,
            "reasoning_format": "none",  # reasoning stays in the answer: what the model writes is shown and compared
        }
        if tools:
            request["tools"] = [dict(tool) for tool in tools]
        return _Collector(on_text).collect(self._server, request)


class _Collector:
    """Gathers the pieces of one reply. Its callback must not raise: the binding would drop the exception."""

    def __init__(self, on_text: OnText | None) -> None:
        self._on_text = on_text
        self._pieces: list[str] = []
        self._last: dict[str, Any] = {}
        self._verbose: dict[str, Any] = {}
        self._error: str | None = None

    def collect(self, server: Any, request: dict[str, Any]) -> ChatReply:
        try:
            if self._on_text is None:
                self._take(server.handle_chat_completions(request))
            else:
                server.handle_chat_completions(request, self._take)
        except (ValueError, RuntimeError) as error:  # what the endpoint throws at messages it can't render
            self._error = str(error)
        if self._error is not None:
            raise ModelError(
                f"llama.cpp refuses the messages: {self._error}",
                hint="Shorten the conversation, or look at the chat template in the GGUF file.",
            )
        return ChatReply(
            text="".join(self._pieces),
            prompt=self._verbose.get("prompt", ""),
            prompt_tokens=self._verbose.get("tokens_evaluated", 0),
            stop_reason="length" if self._last.get("finish_reason") == "length" else "stop",
        )

    def _take(self, answer: dict[str, Any]) -> bool:
        """Take in a whole answer or a piece of one. Returns True to break off, as the binding expects."""
        if "error" in answer:
            self._error = str(answer["error"].get("message", answer["error"]))
            return True
        self._verbose = answer.get("__verbose", self._verbose)
        self._last = answer["choices"][0]
        message = self._last.get("message") or self._last.get("delta") or {}
        text = message.get("content") or ""
        self._pieces.append(text)
        return bool(text) and self._on_text is not None and not self._on_text(text)
