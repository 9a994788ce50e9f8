"""Chat with every kind of target: the same answers, in pieces, with a conversation that is kept."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastft.chat import ChatSession, chat
from fastft.errors import ModelError
from tests import small_model

TARGETS = [
    ".",
    "adapter",
    "exports/merged_16bit",
    "exports/gguf-f16",
    "exports/gguf-f16/model-f16.gguf",
]
GRASS, SNOW = "What colour is grass?", "What colour is snow?"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.shared_run(tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("target", TARGETS)
def test_every_kind_of_target_answers_as_trained_and_stops(run: Path, target: str) -> None:
    with ChatSession(run / target) as session:
        pieces = list(session.send(GRASS))
        assert "".join(pieces) == "It is purple."
        assert len(pieces) > 1
        session.reset()
        assert session.ask(SNOW) == "It is brown."
        assert session.messages == small_model.conversation("snow", "brown")


def test_the_conversation_is_fed_whole_and_reset_forgets_it(run: Path) -> None:
    with ChatSession(run / "exports/gguf-f16", system="Be brief.") as session:
        session.ask(GRASS)
        session.ask(SNOW)
        assert [message["role"] for message in session.messages] == ["system", *["user", "assistant"] * 2]
        session.reset()
        assert session.messages == [{"role": "system", "content": "Be brief."}]
        session.system = None
        assert session.messages == []


@pytest.mark.parametrize("target", ["exports/merged_16bit", "exports/gguf-f16"])
def test_an_answer_broken_off_stays_as_far_as_it_came(run: Path, target: str) -> None:
    with ChatSession(run / target) as session:
        answer = session.send(GRASS)
        first = next(answer)
        answer.close()
        assert session.messages[-1] == {"role": "assistant", "content": first}
        session.reset()
        assert session.ask(GRASS) == "It is purple."


@pytest.mark.parametrize("target", ["exports/merged_16bit", "exports/gguf-f16"])
def test_max_new_tokens_bounds_the_answer(run: Path, target: str) -> None:
    with ChatSession(run / target, max_new_tokens=2) as session:
        assert session.ask(GRASS) == "It is"


def test_a_message_that_is_too_long_is_forgotten(run: Path) -> None:
    with ChatSession(run / "exports/gguf-f16") as session:
        with pytest.raises(ModelError, match="exceeds the available context size"):
            session.ask("word " * 4000)
        assert session.messages == []
        assert session.ask(GRASS) == "It is purple."


def test_piped_lines_are_answered_one_by_one(run: Path) -> None:
    out = io.StringIO()
    lines = io.StringIO(f"{GRASS}\n\n/reset\n{SNOW}\n/exit\nnever asked\n")
    chat(run / "exports/gguf-f16", stdin=lines, stdout=out)
    assert out.getvalue() == "It is purple.\nIt is brown.\n"


def test_commands_set_the_system_message_and_unknown_ones_are_named(run: Path) -> None:
    out = io.StringIO()
    chat(run / "exports/gguf-f16", stdin=io.StringIO(f"/system Be brief.\n/sytem x\n{GRASS}\n"), stdout=out)
    assert out.getvalue().startswith("There is no command /sytem.")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "nowhere", "There is nothing at"),
        (lambda folder: folder, "is neither a run, an adapter, a model folder nor a GGUF file"),
    ],
)
def test_a_target_that_is_nothing_is_an_error(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    with pytest.raises(ModelError) as caught:
        ChatSession(make(tmp_path))
    assert words in caught.value.message


def test_a_folder_of_several_gguf_files_asks_which(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"holds 2 GGUF files: a\.gguf, b\.gguf"):
        ChatSession(tmp_path)


def test_unfinished_run_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("method: sft\n")
    with pytest.raises(ModelError, match="has not finished training"):
        ChatSession(tmp_path)


def test_chat_starts_without_unsloth_and_a_gguf_without_torch(run: Path) -> None:
    script = (
        "import sys; from fastft.chat import ChatSession\n"
        "print(ChatSession(sys.argv[1]).ask(sys.argv[2]), 'torch' in sys.modules, 'unsloth' in sys.modules)\n"
    )

    # Unsloth, imported by another test, leaves a variable that huggingface_hub warns of.
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_ENABLE_HF_TRANSFER"}

    def answer(target: str) -> str:
        command = [sys.executable, "-c", script, str(run / target), GRASS]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert done.stderr == ""
        return done.stdout

    assert answer("exports/gguf-f16") == "It is purple. False False\n"
    assert answer("adapter") == "It is purple. True False\n"


def test_in_a_terminal_ctrl_c_clears_the_line_and_ctrl_d_leaves(run: Path) -> None:
    script = "import sys; from fastft.chat import chat; chat(sys.argv[1])"
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", script, str(run / "exports/gguf-f16")]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True)
    os.close(follower)
    try:
        _until(leader, "> ")
        _interrupt_until(process, leader, "> ")
        os.write(leader, f"{GRASS}\n".encode())
        _until(leader, "It is purple.")
        _until(leader, "> ")
        os.write(leader, b"\x04")
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def _interrupt_until(process: subprocess.Popen[bytes], descriptor: int, text: str) -> None:
    """readline takes a signal only once it waits for a key, and nothing tells when that is: so, again."""
    for _ in range(60):
        process.send_signal(signal.SIGINT)
        if select.select([descriptor], [], [], 0.5)[0]:
            return _until(descriptor, text)
    raise AssertionError("no answer to Ctrl-C")


def _until(descriptor: int, text: str) -> None:
    """Read the terminal until `text` has come."""
    seen = ""
    while text not in seen:
        ready, _, _ = select.select([descriptor], [], [], 30)
        assert ready, f"{text!r} never came; got {seen!r}"
        seen += os.read(descriptor, 1).decode(errors="replace")
