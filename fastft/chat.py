"""A conversation with a trained model (a run, an adapter, a model folder or a GGUF file), and its base beside it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator
from pathlib import Path
from types import TracebackType

from fastft.chat_backends import Backend, Messages, open_backend, open_base
from fastft.errors import DatasetError, ModelError
from fastft.files import at_home, write_text
from fastft.sampling import Sampling
from fastft.targets import find_target


class ChatSession:
    """A conversation with one model, loaded once.

    `target` is a run directory (its adapter, or the model of a full fine-tune), an adapter folder, a model folder, a
    GGUF file or the folder of a GGUF export. Answers are made with the template and the stop tokens that were trained.
    Temperature 0 is greedy; the other options of sampling are as `fastft.sampling.Sampling` says.

    Raises ModelError if the target is none of these or can't be loaded, RecipeError for an option out of range.
    """

    def __init__(
        self,
        target: Path | str,
        *,
        system: str | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
    ) -> None:
        self.sampling = Sampling(temperature, top_p, top_k, min_p, repetition_penalty, seed)
        self.max_new_tokens = max_new_tokens
        self.system = system
        self.turns: Messages = []
        self._target = find_target(target)
        self._backend = open_backend(self._target)
        self._base_backend: Backend | None = None

    def __enter__(self) -> ChatSession:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the model's memory, and its base's."""
        if self._base_backend is not None:
            self._base_backend.close()
        self._backend.close()

    def base(self) -> ChatSession:
        """A session with the model this one was trained from: the same options, a copy of the conversation so far.

        It is closed with this one. Of an adapter it is the same model in memory with the adapter switched off; the
        base of an export is loaded, the first time, from the run (or adapter) that it lies in. Raises ModelError if it
        lies in none, or if the base can't be loaded.
        """
        if self._base_backend is None:
            self._base_backend = open_base(self._target, self._backend)
        twin = object.__new__(ChatSession)
        twin.__dict__.update(self.__dict__, turns=list(self.turns), _backend=self._base_backend, _base_backend=None)
        return twin

    def reset(self) -> None:
        """Forget the conversation; the system prompt stays."""
        self.turns = []

    @property
    def messages(self) -> Messages:
        """The conversation so far, as the template gets it."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.turns]

    def send(self, text: str) -> Generator[str, None, None]:
        """Say `text`; the answer comes in pieces. Close the iterator to break the answer off; what came is kept.

        Raises ModelError if the template refuses the conversation or it is too long; then `text` is forgotten.
        """
        self.turns.append({"role": "user", "content": text})
        pieces: list[str] = []
        try:
            with contextlib.closing(self._backend.stream(self.messages, self.max_new_tokens, self.sampling)) as stream:
                for piece in stream:
                    pieces.append(piece)
                    yield piece
        except ModelError:
            self.turns.pop()
            raise
        except GeneratorExit:
            self.turns.append({"role": "assistant", "content": "".join(pieces)})
            raise
        self.turns.append({"role": "assistant", "content": "".join(pieces)})

    def ask(self, text: str) -> str:
        """Say `text` and return the whole answer."""
        return "".join(self.send(text))

    def save(self, path: Path | str) -> int:
        """Append the conversation to the JSONL file `path` as a row of {"messages": […]}, which fastft trains on.

        Returns the number of rows the file then has. Raises DatasetError, the file untouched, if nothing was said yet,
        if `path` is no file of such rows, or if it can't be written.
        """
        path = at_home(path)
        if not self.turns:
            raise DatasetError("There is nothing to save: the conversation is empty")
        rows = _rows_of(path)
        rows.append(json.dumps({"messages": self.messages}, ensure_ascii=False))
        try:
            write_text(path.resolve(), "\n".join(rows) + "\n")
        except OSError as error:
            raise DatasetError(f"{path} can't be written: {error.strerror}", hint="Name another place.") from error
        return len(rows)


def _rows_of(path: Path) -> list[str]:
    """The lines of a file of conversations, which may not exist yet. Whatever else it is must not be added to."""
    if path.suffix != ".jsonl":
        raise DatasetError(
            f"{path} is no name for a file of conversations", hint=f"End it with .jsonl: {path.stem or 'chats'}.jsonl"
        )
    if not path.exists():
        return []
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        fits = all("messages" in json.loads(line) for line in lines[:1] + lines[-1:])
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DatasetError(f"{path} can't be added to: {error}", hint="Name another file.") from error
    if not fits:
        raise DatasetError(
            f'{path} can\'t be added to: its rows hold no "messages"', hint="Name another file, or a new one."
        )
    return lines
