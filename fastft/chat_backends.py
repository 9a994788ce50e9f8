"""What a chat can be held with: a run, an adapter, a model folder or a GGUF file, and the base it was made of."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fastft.errors import FastftError, ModelError
from fastft.sampling import Sampling
from fastft.targets import ModelTarget, find_target

if TYPE_CHECKING:
    from fastft.inference import TextModel

Messages = list[dict[str, Any]]


class Backend(Protocol):
    def stream(self, messages: Messages, limit: int, sampling: Sampling) -> Generator[str, None, None]:
        """The answer in pieces of text; closing it ends the work."""
        ...

    def close(self) -> None: ...


def open_backend(target: ModelTarget) -> Backend:
    """The model of `target`. Raises ModelError if it can't be loaded."""
    if target.gguf is not None:
        return _LlamaCpp(target.gguf)
    assert target.folder is not None
    assert target.tokenizer_folder is not None
    return _Transformers(_load(target.folder, target.adapter), target.tokenizer_folder)


def open_base(target: ModelTarget, backend: Backend) -> Backend:
    """The model that `target` was made of, fed with the prompts of `target`.

    Of an adapter it is the model of `backend`, with the adapter switched off; otherwise one is loaded. Raises
    ModelError if it is not known what the target was made of, or if that can't be loaded.
    """
    if target.adapter is not None:
        assert isinstance(backend, _Transformers)
        return backend.without_adapter()
    folder, tokenizer = _made_of(target)
    return _Transformers(_load(folder, None), target.folder or tokenizer)


def _made_of(target: ModelTarget) -> tuple[Path, Path]:
    """(base model, folder of the tokenizer that was trained with), from the run or the adapter it was exported of."""
    from fastft.exporters.base_model import base_of_run

    if target.run is not None:
        run = target.run
        trained = run.adapter if run.adapter.is_dir() else run.model_dir
        return base_of_run(run.manifest()).folder, trained
    export = target.folder or (target.gguf.parent if target.gguf is not None else Path())
    adapter = export.absolute().parent.parent
    if not (adapter / "adapter_config.json").is_file():
        raise ModelError(
            f"There is no base to compare {target.name} with: it is no adapter, and lies in no run",
            hint="Name a run, one of its exports, or an adapter.",
        )
    source = find_target(adapter)
    assert source.folder is not None
    assert source.tokenizer_folder is not None
    return source.folder, source.tokenizer_folder


def _load(folder: Path, adapter: Path | None) -> TextModel:
    from rich.console import Console

    from fastft.inference import TextModel
    from fastft.quiet import library_output_to

    with library_output_to(Path(os.devnull), Console()):
        return TextModel.load(folder, adapter)


class _Transformers:
    """A model folder, or an adapter on its base; `base` leaves the adapter out of the answers."""

    def __init__(self, model: TextModel, tokenizer: Path, *, base: bool = False) -> None:
        from fastft.data.tokenizer import ChatTokenizer

        self._tokenizer_folder = tokenizer
        self._tokenizer = ChatTokenizer.load(tokenizer)
        self._model = model
        self._base = base
        # A bare adapter brings no generation config, and its base's may know nothing of turns.
        if self._tokenizer.end_of_turn_id not in model.stop_ids:
            model.stop_ids.append(self._tokenizer.end_of_turn_id)

    def without_adapter(self) -> _Transformers:
        return _Transformers(self._model, self._tokenizer_folder, base=True)

    def stream(self, messages: Messages, limit: int, sampling: Sampling) -> Generator[str, None, None]:
        prompt = self._tokenizer.prompt_ids(messages)
        limit = min(limit, self._room(prompt))
        ids: list[int] = []
        shown = ""
        for token in self._model.stream(prompt, limit, sampling, without_adapter=self._base):
            ids.append(token)
            text = self._tokenizer.decode(ids, skip_special_tokens=True)
            if not text.endswith("�"):  # the bytes of a character may come in several tokens
                yield text[len(shown) :]
                shown = text
        rest = self._tokenizer.decode(ids, skip_special_tokens=True)[len(shown) :]
        if rest:
            yield rest

    def _room(self, prompt: list[int]) -> int:
        """Tokens that an answer may have. Raises ModelError if the model can't be fed `prompt`."""
        if max(prompt) >= self._model.vocabulary:
            raise ModelError(
                f"The base model lacks the token {max(prompt)}, which the conversation's template or text needs",
                hint="Tokens were added in training, so the base can't be asked in the same way.",
            )
        positions = getattr(self._model.model.config.get_text_config(), "max_position_embeddings", None)
        if positions is not None and len(prompt) >= positions:
            raise ModelError(
                f"The conversation has {len(prompt)} tokens and exceeds the {positions} positions of the model",
                hint="Say less at once, or /reset.",
            )
        return sys.maxsize if positions is None else positions - len(prompt)

    def close(self) -> None:
        if not self._base:
            self._model.close()


class _LlamaCpp:
    """A GGUF file, through llama.cpp's chat endpoint."""

    def __init__(self, path: Path) -> None:
        from fastft.llamacpp import GGUFModel

        self._model = GGUFModel(path)

    def stream(self, messages: Messages, limit: int, sampling: Sampling) -> Generator[str, None, None]:
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
                    sampling=sampling,
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
