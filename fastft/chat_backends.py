"""What a chat can be held with: a run, an adapter, a model folder or a GGUF file, by what lies on the disk."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Protocol

from fastft.errors import FastftError, ModelError
from fastft.model_files import TINY, resolve_model

Messages = list[dict[str, Any]]


class Backend(Protocol):
    def stream(self, messages: Messages, limit: int, temperature: float) -> Generator[str, None, None]:
        """The answer in pieces of text; closing it ends the work."""
        ...

    def close(self) -> None: ...


def open_backend(target: Path) -> Backend:
    """The model that lies at `target`. Raises ModelError if there is none, or it can't be loaded."""
    target = resolve_model(TINY, weights=True) if str(target) == TINY else target.expanduser()
    if target.is_file():
        return _LlamaCpp(target)
    if (target / "recipe.yaml").is_file():
        return _open_run(target)
    if (target / "adapter_config.json").is_file():
        return _open_adapter(target)
    if (target / "config.json").is_file():
        return _Transformers(target, None)
    files = sorted(target.glob("*.gguf"))
    if len(files) == 1:
        return _LlamaCpp(files[0])
    raise _nothing_to_talk_to(target, files)


def _open_run(folder: Path) -> Backend:
    from fastft.exporters.base_model import base_of_run
    from fastft.proof.reference import trained_folder
    from fastft.run import Run

    run = Run.open(folder)
    manifest = run.trained_manifest()
    trained = trained_folder(run)
    if trained == run.model_dir:
        return _Transformers(trained, None)
    return _Transformers(base_of_run(manifest).folder, trained)


def _open_adapter(folder: Path) -> Backend:
    from fastft.exporters.base_model import resolve_base

    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return _Transformers(resolve_base(config["base_model_name_or_path"], config.get("revision")).folder, folder)


def _nothing_to_talk_to(target: Path, files: Sequence[Path]) -> ModelError:
    if files:
        names = ", ".join(path.name for path in files)
        return ModelError(f"{target} holds {len(files)} GGUF files: {names}", hint="Name one of them.")
    if not target.exists():
        return ModelError(
            f"There is nothing at {target}",
            hint="Name a run directory, an adapter or model folder, or a .gguf file.",
        )
    if (target / "export.json").is_file():
        return ModelError(
            f"The export {target} has lost its model file",
            hint=f"Make it again: fastft export {target.parent.parent} --overwrite",
        )
    return ModelError(
        f"{target} is neither a run, an adapter, a model folder nor a GGUF file",
        hint="Those hold recipe.yaml, adapter_config.json, config.json or one *.gguf file.",
    )


class _Transformers:
    """A model folder, or an adapter on its base."""

    def __init__(self, folder: Path, adapter: Path | None) -> None:
        from rich.console import Console

        from fastft.data.tokenizer import ChatTokenizer
        from fastft.inference import TextModel
        from fastft.quiet import library_output_to

        has_tokenizer = adapter is not None and (adapter / "tokenizer_config.json").is_file()
        self._tokenizer = ChatTokenizer.load(adapter if adapter is not None and has_tokenizer else folder)
        with library_output_to(Path(os.devnull), Console()):
            self._model = TextModel.load(folder, adapter)
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
