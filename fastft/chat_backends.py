"""What a chat can be held with: a run, an adapter, a model folder or a GGUF file, by what lies on the disk."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any, Protocol

from fastft.errors import FastftError
from fastft.targets import ModelTarget, find_target

Messages = list[dict[str, Any]]


class Backend(Protocol):
    def stream(self, messages: Messages, limit: int, temperature: float) -> Generator[str, None, None]:
        """The answer in pieces of text; closing it ends the work."""
        ...

    def close(self) -> None: ...


def open_backend(target: Path | str) -> Backend:
    """The model that lies at `target`. Raises ModelError if there is none, or it can't be loaded."""
    found = find_target(target)
    return _LlamaCpp(found.gguf) if found.gguf is not None else _Transformers(found)


class _Transformers:
    """A model folder, or an adapter on its base."""

    def __init__(self, target: ModelTarget) -> None:
        from rich.console import Console

        from fastft.data.tokenizer import ChatTokenizer
        from fastft.inference import TextModel
        from fastft.quiet import library_output_to

        assert target.folder is not None
        assert target.tokenizer_folder is not None
        self._tokenizer = ChatTokenizer.load(target.tokenizer_folder)
        with library_output_to(Path(os.devnull), Console()):
            self._model = TextModel.load(target.folder, target.adapter)
        # A bare adapter brings no generation config, and its base's may know nothing of turns.
        self._model.stop_ids.append(self._tokenizer.end_of_turn_id)

    def stream(self, messages: Messages, limit: int, temperature: float) -> Generator[str, None, None]:
        ids: list[int] = []
        shown = ""
        for token in self._model.stream(self._tokenizer.prompt_ids(messages), limit, temperature):
            ids.append(token)
            text = self._tokenizer.decode(ids, skip_special_tokens=True)
            if not text.endswith("�"):  # the bytes of a character may come in several tokens
                yield text[len(shown) :]
                shown = text
        rest = self._tokenizer.decode(ids, skip_special_tokens=True)[len(shown) :]
        if rest:
            yield rest

    def close(self) -> None:
        self._model.close()


class _LlamaCpp:
    """A GGUF file, through llama.cpp's chat endpoint."""

    def __init__(self, path: Path) -> None:
        from fastft.llamacpp import GGUFModel

        self._model = GGUFModel(path)

    def stream(self, messages: Messages, limit: int, temperature: float) -> Generator[str, None, None]:
        """llama.cpp works in a thread of its own: its callback can't yield, nor must a Ctrl-C arrive in it."""
        pieces: queue.Queue[str | BaseException | None] = queue.Queue()
        wanted = threading.Event()
        wanted.set()

        def work() -> None:
            try:
                self._model.chat(
                    messages,
                    lambda text: pieces.put(text) or wanted.is_set(),
                    max_tokens=limit,
                    temperature=temperature,
                )
                pieces.put(None)
            except FastftError as error:
                pieces.put(error)

        worker = threading.Thread(target=work)
        worker.start()
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            wanted.clear()
            worker.join()

    def close(self) -> None:
        self._model.close()
