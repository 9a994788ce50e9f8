"""A GGUF file in llama.cpp itself, in this process: token ids, metadata, logits, greedy answers, chat."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fastft import llama_abi
from fastft.data.template_trial import require_end
from fastft.errors import ModelError
from fastft.gguf_trial import require_survivable
from fastft.inference import Generation
from fastft.llama_server import ChatReply, ChatServer, Messages, OnText
from fastft.sampling import GREEDY, Sampling

if TYPE_CHECKING:
    import numpy as np

_MAGIC = b"GGUF"
_DEFAULT_CONTEXT = 4096  # tokens; enough for any prompt met here without reserving a whole long context
_SMALL_MODEL = 64 << 20  # bytes of the file
_LOGITS_BYTES = 1 << 27  # of one batch: rows of logits are fetched in pieces of about this size


class GGUFModel:
    """One GGUF file. The vocabulary is read at once; weights and the chat server are loaded when first needed.

    Raises ModelError if the file is missing, is no GGUF, is cut short or of a kind this llama.cpp can't run, or ends
    the process (which is tried in another one first).
    """

    def __init__(self, path: Path, *, n_ctx: int | None = None, lora: Path | None = None, exact: bool = False) -> None:
        """`lora` is an adapter's GGUF file, put on the model; `exact` computes attention and keeps keys and values in
        32 bits instead of 16, for comparisons. Neither changes `chat`."""
        self.path = path
        self._exact = exact
        self._lora = lora
        for file in (path, lora) if lora else (path,):
            _check_file(file)
        require_survivable(path, lora)
        self._llama = llama_abi.library()
        self._handles = contextlib.ExitStack()
        self._vocab_model = self._load(vocab_only=True)
        self._vocab = self._llama.llama_model_get_vocab(self._vocab_model)
        trained = self._llama.llama_model_n_ctx_train(self._vocab_model)
        self.n_ctx = n_ctx or min(trained or _DEFAULT_CONTEXT, _DEFAULT_CONTEXT)

    def __enter__(self) -> GGUFModel:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free all memory; the model can't be used after."""
        self.__dict__.pop("_server", None)
        self.__dict__.pop("_context", None)
        self._handles.close()

    @property
    def n_vocab(self) -> int:
        return self._llama.llama_vocab_n_tokens(self._vocab)

    @property
    def bos_id(self) -> int | None:
        return _token(self._llama.llama_vocab_bos(self._vocab))

    @property
    def eos_id(self) -> int | None:
        return _token(self._llama.llama_vocab_eos(self._vocab))

    @property
    def pad_id(self) -> int | None:
        return _token(self._llama.llama_vocab_pad(self._vocab))

    @property
    def adds_bos(self) -> bool:
        """Whether llama.cpp puts a BOS before a prompt that it tokenizes."""
        return self._llama.llama_vocab_get_add_bos(self._vocab)

    def is_stop(self, token: int) -> bool:
        """Whether llama.cpp ends an answer at `token`."""
        return self._llama.llama_vocab_is_eog(self._vocab, token)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The scalar metadata of the file (arrays are left out), each value as text."""
        model, llama = self._vocab_model, self._llama
        found = {}
        for index in range(llama.llama_model_meta_count(model)):
            key = _text(llama.llama_model_meta_key_by_index, model, index)
            found[key] = _text(llama.llama_model_meta_val_str_by_index, model, index)
        return found

    @property
    def chat_template(self) -> str | None:
        return self.metadata.get("tokenizer.chat_template")

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        """Ids of `text`, control tokens in it recognised; with `add_special` also the BOS the file asks for."""
        data = text.encode()
        room = len(data) + 8
        ids = (ctypes.c_int32 * room)()
        count = self._llama.llama_tokenize(self._vocab, data, len(data), ids, room, add_special, True)
        assert count >= 0, "a text never has more tokens than bytes, and 8 for the special ones"
        return ids[:count]

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of `ids`; control tokens are left out unless `special`."""
        array = (ctypes.c_int32 * len(ids))(*ids)
        room = 16 * len(ids) + 16
        while True:
            buffer = ctypes.create_string_buffer(room)
            size = self._llama.llama_detokenize(self._vocab, array, len(ids), buffer, room, False, special)
            if size >= 0:
                return buffer.raw[:size].decode(errors="replace")
            room = -size

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        """Log-probabilities of the next token after each of `ids`: float32 [len(ids), n_vocab]."""
        import numpy as np

        rows = np.concatenate(list(self._logits(ids)))
        return _log_softmax(rows)

    def logits(self, ids: Sequence[int]) -> Iterator[np.ndarray]:
        """Logits of the next token after each of `ids`, in pieces of at most a batch: float32 [rows, n_vocab]."""
        return self._logits(ids)

    def next_logprobs(self, ids: Sequence[int], k: int) -> dict[int, float]:
        """The `k` likeliest next tokens after `ids` with their log-probabilities, likeliest first."""
        import numpy as np

        row = self.logprobs(ids)[-1]
        return {int(token): float(row[token]) for token in np.argsort(-row, kind="stable")[:k]}

    def generate(self, ids: Sequence[int], max_tokens: int) -> Generation:
        """The greedy continuation of `ids`, ended by a stop token of the file or after `max_tokens`."""
        *_, rows = self._logits(ids)
        answer: list[int] = []
        while len(answer) < max_tokens:
            token = int(rows[-1].argmax())
            if self.is_stop(token):
                return Generation(answer, "stop")
            answer.append(token)
            rows = self._decode([token], len(ids) + len(answer) - 1)
        return Generation(answer, "length")

    def render(self, messages: Messages, tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """The prompt llama.cpp's chat endpoint feeds for `messages`, from the template in the file.

        It is read back from the tokens, so a BOS that the tokenizer adds shows in it.
        """
        return self.chat(messages, tools=tools, max_tokens=1).prompt

    def chat(
        self,
        messages: Messages,
        on_text: OnText | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        max_tokens: int = 512,
        sampling: Sampling = GREEDY,
    ) -> ChatReply:
        """An answer through llama.cpp's own chat endpoint: its template engine, its stop tokens.

        `on_text` gets each piece of the answer as it comes; the answer is broken off when it returns False.
        Raises ModelError if llama.cpp refuses the request (a template error, a prompt over the context).
        """
        return self._server.reply(messages, on_text, tools=tools, max_tokens=max_tokens, sampling=sampling)

    @cached_property
    def _context(self) -> ctypes.c_void_p:
        llama = self._llama
        params = llama.llama_context_default_params()
        params.n_ctx = self.n_ctx
        params.n_batch = params.n_ubatch = self._batch
        params.n_threads = params.n_threads_batch = threads_for(self.path)
        if self._exact:
            params.type_k = params.type_v = llama_abi.GGML_TYPE_F32
            params.flash_attn_type = llama_abi.FLASH_ATTN_OFF
        llama_abi.silence(llama)
        model = self._load(vocab_only=False)
        context = llama.llama_init_from_model(model, params)
        if not context:
            raise ModelError(f"llama.cpp can't run {self.path}: {llama_abi.reason()}", hint=_UNSUPPORTED)
        self._handles.callback(llama.llama_free, context)
        if self._lora:
            self._put_on(context, model, self._lora)
        return context

    def _put_on(self, context: ctypes.c_void_p, model: ctypes.c_void_p, lora: Path) -> None:
        """The adapter belongs to the model from here on, and is freed with it."""
        adapter = self._llama.llama_adapter_lora_init(model, str(lora).encode())
        adapters, scales = (ctypes.c_void_p * 1)(adapter), (ctypes.c_float * 1)(1.0)
        if not adapter or self._llama.llama_set_adapters_lora(context, adapters, 1, scales):
            raise ModelError(f"llama.cpp can't put {lora} on {self.path}: {llama_abi.reason()}", hint=_UNSUPPORTED)

    @cached_property
    def _batch(self) -> int:
        return max(32, min(512, _LOGITS_BYTES // (4 * self.n_vocab)))

    def _load(self, *, vocab_only: bool) -> ctypes.c_void_p:
        llama = self._llama
        params = llama.llama_model_default_params()
        params.vocab_only = vocab_only
        # Without repacking the weights stay in the file's mapping: no second copy in memory.
        params.use_extra_bufts = False
        llama_abi.silence(llama)
        model = llama.llama_model_load_from_file(str(self.path).encode(), params)
        if not model:
            raise ModelError(f"llama.cpp can't load {self.path}: {llama_abi.reason()}", hint=_UNSUPPORTED)
        self._handles.callback(llama.llama_model_free, model)
        return model

    def _logits(self, ids: Sequence[int]) -> Iterator[np.ndarray]:
        """Logits after each of `ids`, read afresh, in pieces of at most a batch: float32 [rows, n_vocab]."""
        if not 0 < len(ids) <= self.n_ctx:
            raise ModelError(
                f"{len(ids)} tokens can't be read at once: the context of {self.path} holds {self.n_ctx}",
                hint="Give a longer context or a shorter prompt.",
            )
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
        for start in range(0, len(ids), self._batch):
            yield self._decode(ids[start : start + self._batch], start)

    def _decode(self, ids: Sequence[int], position: int) -> np.ndarray:
        import numpy as np

        count, llama = len(ids), self._llama
        batch = llama.llama_batch_init(count, 0, 1)
        try:
            for i, token in enumerate(ids):
                batch.token[i], batch.pos[i], batch.logits[i] = token, position + i, 1
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.n_tokens = count
            failed = llama.llama_decode(self._context, batch)
        finally:
            llama.llama_batch_free(batch)
        if failed:
            raise ModelError(f"llama.cpp can't evaluate {self.path}: {llama_abi.reason()}", hint=_UNSUPPORTED)
        rows = np.ctypeslib.as_array(llama.llama_get_logits(self._context), (count, self.n_vocab))
        return rows.copy()  # the buffer belongs to the context and is written again by the next call

    @cached_property
    def _server(self) -> ChatServer:
        require_end(self.chat_template, self.path)
        return ChatServer(self.path, self.n_ctx, threads_for(self.path))


_UNSUPPORTED = (
    "Make the file again (fastft export RUN --overwrite); if it stays so, this llama.cpp doesn't know the model."
)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ModelError(f"There is no file {path}", hint="Name a .gguf file, such as RUN/exports/gguf-q8_0/….gguf")
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ModelError(
                f"{path} is no GGUF file: it does not begin with GGUF",
                hint="Name a file that llama.cpp's converter or fastft export made.",
            )


def threads_for(path: Path) -> int:
    """All cores, but one for a small model: its threads would wait for each other at every tensor, and on a busy
    machine, where one of them may not be running, hundreds of times longer than the work takes."""
    if path.stat().st_size < _SMALL_MODEL:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _token(token: int) -> int | None:
    return None if token < 0 else token


def _text(read: Callable[..., int], model: ctypes.c_void_p, index: int) -> str:
    """Call one of llama.cpp's functions that fill a buffer and return the whole length."""
    size = read(model, index, None, 0)
    buffer = ctypes.create_string_buffer(max(size, 0) + 1)
    read(model, index, buffer, len(buffer))
    return buffer.value.decode(errors="replace")


def _log_softmax(rows: np.ndarray) -> np.ndarray:
    import numpy as np

    shifted = rows - rows.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted, dtype=np.float32).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(
        np.float32
    )
