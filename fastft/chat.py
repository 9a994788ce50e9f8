"""Talking to a trained model: a run, an adapter, a model folder or a GGUF file, in the terminal or from Python."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import TextIO

from fastft.chat_backends import Messages, open_backend
from fastft.errors import ModelError

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
        self._backend = open_backend(target)

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
