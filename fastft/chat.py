"""Talking to a trained model: a run, an adapter, a model folder or a GGUF file, in the terminal or from Python."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

from fastft.errors import FastftError, ModelError

Messages = list[dict[str, Any]]
_HELP = "/reset forgets the conversation, /system TEXT sets the system message, /exit leaves; Ctrl-C stops an answer."


class ChatSession:
    """A conversation with one model, loaded once.

    `target` is a run directory (its adapter, or the model of a full fine-tune), an adapter folder, a model folder, a
    GGUF file or the folder of a GGUF export. Answers are made with the template and the stop tokens that were trained.
    Temperature 0 is greedy. Raises ModelError if the target is none of these or can't be loaded.
    """

    def __init__(
        self,
        target: Path | str,
        *,
        system: str | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
    ) -> None:
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.system = system
        self.turns: Messages = []
        self._backend = _open(Path(target))

    def __enter__(self) -> ChatSession:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the model's memory."""
        self._backend.close()

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
            with contextlib.closing(
                self._backend.stream(self.messages, self.max_new_tokens, self.temperature)
            ) as stream:
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


def chat(
    target: Path | str,
    *,
    system: str | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    stdin: TextIO | None = None,
    stdout: TextIO | None = None,
) -> None:
    """Talk in the terminal. Where input is no terminal, each line is one message, and only answers are printed."""
    source, out = stdin or sys.stdin, stdout or sys.stdout
    with ChatSession(target, system=system, max_new_tokens=max_new_tokens, temperature=temperature) as session:
        if source.isatty():
            print(_HELP, file=out)
            for line in _typed(out):
                try:
                    _take(session, line, out)
                except ModelError as error:
                    print(error, file=out)
                except EOFError:
                    return
        else:
            with contextlib.suppress(EOFError):
                for line in source:
                    _take(session, line.rstrip("\n"), out)


def _typed(out: TextIO) -> Iterator[str]:
    """Lines typed at a prompt, with editing and history where the system has them; Ctrl-C clears the line."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (importing it gives input() its line editing)
    while True:
        try:
            yield input("\n> ")
        except KeyboardInterrupt:
            print(file=out)
        except EOFError:
            print(file=out)
            return


def _take(session: ChatSession, line: str, out: TextIO) -> None:
    """Do a command or answer a message. Raises EOFError at /exit, ModelError if there can be no answer."""
    command, _, rest = line.strip().partition(" ")
    if command == "/exit":
        raise EOFError
    if command == "/reset":
        session.reset()
    elif command == "/system":
        session.system = rest.strip() or None
    elif command.startswith("/"):
        print(f"There is no command {command}. {_HELP}", file=out)
    elif command:
        _answer(session, line, out)


def _answer(session: ChatSession, text: str, out: TextIO) -> None:
    """Print the answer as it comes; Ctrl-C breaks it off, and what came stays in the conversation."""
    pieces = session.send(text)
    try:
        for piece in pieces:
            out.write(piece)
            out.flush()
    except KeyboardInterrupt:
        pieces.close()
        out.write(" …")
    print(file=out, flush=True)


class _Backend(Protocol):
    def stream(self, messages: Messages, limit: int, temperature: float) -> Generator[str, None, None]:
        """The answer in pieces of text; closing it ends the work."""
        ...

    def close(self) -> None: ...


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


def _open(target: Path) -> _Backend:
    """The backend for what lies at `target`."""
    target = target.expanduser()
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


def _open_run(folder: Path) -> _Backend:
    from fastft.exporters.base_model import resolve_base
    from fastft.proof.reference import trained_folder
    from fastft.run import Run

    run = Run.open(folder)
    settings = run.manifest()["model"]
    trained = trained_folder(run)
    if trained == run.model_dir:
        return _Transformers(trained, None)
    return _Transformers(resolve_base(settings["model_name"], settings.get("revision")).folder, trained)


def _open_adapter(folder: Path) -> _Backend:
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
    return ModelError(
        f"{target} is neither a run, an adapter, a model folder nor a GGUF file",
        hint="Those hold recipe.yaml, adapter_config.json, config.json or one *.gguf file.",
    )
