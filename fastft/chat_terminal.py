"""The chat in a terminal, or in a pipe: commands, answers as they come, and two models side by side."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypedDict, Unpack

from fastft.chat import ChatSession
from fastft.errors import FastftError

if TYPE_CHECKING:
    from rich.console import RenderableType

_HELP = """\
/reset        forget the conversation
/system TEXT  set the system message; without TEXT there is none
/save FILE    append the conversation to a JSONL file that can be trained on
/compare      let the base model answer too, side by side; again to end it
/exit         leave, as Ctrl-D does; Ctrl-C breaks an answer off"""
_SIDE_BY_SIDE = 80  # columns a terminal needs for two answers beside each other


class ChatOptions(TypedDict, total=False):
    """The keyword arguments of ChatSession."""

    system: str | None
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    seed: int | None


def chat(
    target: Path | str,
    *,
    stdin: TextIO | None = None,
    stdout: TextIO | None = None,
    **options: Unpack[ChatOptions],
) -> None:
    """Talk in the terminal. Where input is no terminal, each line is one message or command, only answers are printed
    to `stdout`, and an answer that can't be given ends it. That the model is loaded is said on stderr. Raises what
    ChatSession does."""
    source, out = stdin or sys.stdin, stdout or sys.stdout
    with _loading("loading the model"):
        session = ChatSession(target, **options)
    with session:
        if source.isatty():
            terminal = _Terminal(session, out, out)
            print("/help shows the commands.", file=out)
            for line in _typed(out):
                try:
                    terminal.take(line)
                except FastftError as error:
                    print(error, file=out)
                except EOFError:
                    return
        else:
            terminal = _Terminal(session, out, sys.stderr)
            with contextlib.suppress(EOFError):
                for line in source:
                    terminal.take(line.rstrip("\n"))


@contextlib.contextmanager
def _loading(what: str) -> Iterator[None]:
    """Say on stderr what takes its time: stdout is the answers'."""
    from rich.console import Console

    from fastft.progress import working

    with contextlib.ExitStack() as open_ones:
        file: TextIO | None = sys.stderr
        with contextlib.suppress(OSError, AttributeError):  # while a model is loaded, stderr leads nowhere
            file = open_ones.enter_context(os.fdopen(os.dup(sys.stderr.fileno()), "w", errors="replace"))
        if file is not None:
            open_ones.enter_context(working(Console(file=file), what, aloud=True))
        yield


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


class _Terminal:
    """Does what a line says. Answers go to `out`, remarks to `notes`."""

    def __init__(self, session: ChatSession, out: TextIO, notes: TextIO) -> None:
        self._session = session
        self._base: ChatSession | None = None
        self._out, self._notes = out, notes
        self._commands: dict[str, Callable[[str], None]] = {
            "/reset": self._reset,
            "/system": self._system,
            "/save": self._save,
            "/compare": self._compare,
            "/help": lambda _: self._note(_HELP),
            "/exit": _leave,
        }

    def take(self, line: str) -> None:
        """Do a command or answer a message. Raises EOFError at /exit, FastftError for what can't be done."""
        command, _, rest = line.strip().partition(" ")
        if command in self._commands:
            self._commands[command](rest.strip())
        elif command.startswith("/"):
            self._note(f"There is no command {command}. The commands are {', '.join(self._commands)}.")
        elif command and self._base is not None:
            self._answer_both(self._base, line)
        elif command:
            self._answer(line)

    def _note(self, text: str) -> None:
        print(text, file=self._notes, flush=True)

    def _reset(self, _: str) -> None:
        for session in self._sessions:
            session.reset()

    def _system(self, text: str) -> None:
        for session in self._sessions:
            session.system = text or None

    def _save(self, name: str) -> None:
        if not name:
            return self._note("Name the file: /save chats.jsonl")
        try:
            rows = self._session.save(name)
        except FastftError as error:  # no reason to leave what is still to come
            return self._note(str(error))
        turns = len(self._session.messages)
        return self._note(f"saved {turns} messages to {name}, which now holds {rows} conversation{'s'[: rows != 1]}")

    def _compare(self, _: str) -> None:
        if self._base is not None:
            self._base = None
            return self._note("Only the tuned model answers now.")
        with _loading("loading the base model"):
            self._base = self._session.base()
        return self._note("Base and tuned model answer now, each going on with its own answers.")

    @property
    def _sessions(self) -> list[ChatSession]:
        return [self._session] if self._base is None else [self._session, self._base]

    def _answer(self, text: str) -> None:
        """Print the answer as it comes; Ctrl-C breaks it off, and what came stays in the conversation."""
        pieces = self._session.send(text)
        try:
            for piece in pieces:
                self._out.write(piece)
                self._out.flush()
        except KeyboardInterrupt:
            pieces.close()
            self._out.write(" …")
        print(file=self._out, flush=True)

    def _answer_both(self, base: ChatSession, text: str) -> None:
        """Both answers as they come, a piece of each in turn; in a pipe, one under the other when they are whole."""
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._out, highlight=False)
        pair = _Pair(base.send(text), self._session.send(text))
        before = [list(session.turns) for session in self._sessions]
        try:
            if not console.is_terminal:
                for _ in pair.pieces():
                    pass
                print(pair.as_text(), file=self._out, flush=True)
                return
            with Live(pair.beside(console.width), console=console, auto_refresh=False) as live:
                for _ in pair.pieces():
                    live.update(pair.beside(console.width), refresh=True)
        except KeyboardInterrupt:
            pair.close()
            self._note("…")
        except FastftError:  # one side has forgotten the message, so the other must too
            pair.close()
            for session, turns in zip(self._sessions, before, strict=True):
                session.turns = turns
            raise


class _Pair:
    """Two answers under way: the base's and the tuned model's."""

    def __init__(self, base: Generator[str, None, None], tuned: Generator[str, None, None]) -> None:
        self._streams = (base, tuned)
        self._texts = ["", ""]

    def pieces(self) -> Iterator[None]:
        """Take in a piece of each answer at a time, until both have ended."""
        for pieces in itertools.zip_longest(*self._streams, fillvalue=""):
            self._texts = [text + piece for text, piece in zip(self._texts, pieces, strict=True)]
            yield

    def close(self) -> None:
        for stream in self._streams:
            stream.close()

    def as_text(self) -> str:
        return f"base:  {self._texts[0]}\ntuned: {self._texts[1]}"

    def beside(self, width: int) -> RenderableType:
        """In two columns where `width` is enough, otherwise one under the other."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        base, tuned = map(Text, self._texts)
        heads = Text("base", style="bold dim"), Text("tuned", style="bold")
        if width < _SIDE_BY_SIDE:
            return Group(heads[0], base, heads[1], tuned)
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(ratio=1)
        table.add_column(ratio=1)
        table.add_row(*heads)
        table.add_row(base, tuned)
        return table


def _leave(_: str) -> None:
    raise EOFError
