"""Chat with every kind of target: the same answers, in pieces, with a conversation that is kept."""

from __future__ import annotations

import io
import itertools
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastft.chat import ChatSession
from fastft.chat_terminal import _Terminal, chat
from fastft.errors import DatasetError, ModelError, RecipeError
from fastft.sampling import Sampling
from tests import small_model
from tests.data.reading import read_rows

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


def _piped(target: Path, *lines: str, **options: Any) -> str:
    """What a pipe gets on stdout."""
    out = io.StringIO()
    chat(target, stdin=io.StringIO("".join(f"{line}\n" for line in lines)), stdout=out, **options)
    return out.getvalue()


def test_commands_set_the_system_message_and_remarks_are_no_answers(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _piped(run / "exports/gguf-f16", "/sytem x", "/help", GRASS)
    notes = capsys.readouterr().err
    assert found == "It is purple.\n"
    assert "There is no command /sytem." in notes
    assert "/compare      let the base model answer too" in notes


@pytest.mark.parametrize("target", [".", "adapter", "exports/merged_16bit", "exports/gguf-f16"])
def test_compare_lets_base_and_tuned_answer_each_with_its_own_history(run: Path, target: str) -> None:
    found = _piped(run / target, GRASS, "/compare", SNOW, "/compare", SNOW)
    assert found == "It is purple.\nbase:  It is white.\ntuned: It is brown.\nIt is brown.\n"
    with ChatSession(run / target) as session:
        session.ask(GRASS)
        base = session.base()
        assert (base.ask(SNOW), session.ask(SNOW)) == ("It is white.", "It is brown.")
        assert base.messages[:3] == session.messages[:3]
        assert (base.turns[-1]["content"], session.turns[-1]["content"]) == ("It is white.", "It is brown.")


def test_the_base_of_an_adapter_is_the_same_model_without_it(run: Path) -> None:
    with ChatSession(run / "adapter") as session:
        base = session.base()
        assert session._backend._model is base._backend._model  # pyright: ignore[reportAttributeAccessIssue]
        one, other = base.send(GRASS), session.send(GRASS)
        pairs = list(itertools.zip_longest(one, other, fillvalue=""))  # a piece of each in turn
    assert ["".join(pieces) for pieces in zip(*pairs, strict=True)] == ["It is green.", "It is purple."]


def test_exports_of_a_bare_adapter_are_compared_with_its_base(run: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(run / "adapter", tmp_path / "my-lora")
    shutil.copytree(run / "exports/gguf-f16", adapter / "exports/gguf-f16")
    found = _piped(adapter / "exports/gguf-f16", "/compare", GRASS)
    assert found == "base:  It is green.\ntuned: It is purple.\n"


def test_what_has_no_base_says_so(run: Path, tmp_path: Path) -> None:
    loose = Path(shutil.copy(run / "exports/gguf-f16/model-f16.gguf", tmp_path))
    with pytest.raises(ModelError, match=r"There is no base to compare .* with"):
        _piped(loose, "/compare")


def test_where_one_of_two_can_t_answer_both_forget_the_message(run: Path) -> None:
    with ChatSession(run / "exports/merged_16bit") as session:
        out = io.StringIO()
        terminal = _Terminal(session, out, out)
        terminal.take("/compare")
        terminal.take(GRASS)
        with pytest.raises(ModelError, match="exceeds the 512 positions of the model"):
            terminal.take("word " * 600)
        terminal.take(SNOW)
        assert [message["role"] for message in session.messages] == ["user", "assistant"] * 2
        assert out.getvalue().endswith("base:  It is white.\ntuned: It is brown.\n")
        terminal.take("/reset")
        terminal.take("/system Be brief.")
        assert terminal._base is not None
        assert terminal._base.messages == session.messages == [{"role": "system", "content": "Be brief."}]


def test_saved_conversations_are_rows_that_fastft_reads(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    _piped(
        run / "exports/gguf-f16",
        "/system Be brief.",
        GRASS,
        f"/save {file}",
        "/reset",
        "/system",
        SNOW,
        f"/save {file}",
    )
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert rows[1] == {"messages": small_model.conversation("snow", "brown")}
    assert [row.values["messages"] for row in read_rows(file)] == [row["messages"] for row in rows]
    assert list(tmp_path.iterdir()) == [file]


def test_a_conversation_that_can_t_be_saved_does_not_end_the_others(run: Path) -> None:
    assert "It is brown." in _piped(run / "exports/gguf-f16", GRASS, "/save chats.txt", "/reset", SNOW)


def test_what_can_t_be_saved_leaves_the_file_as_it_is(run: Path, tmp_path: Path) -> None:
    other, broken = tmp_path / "other.jsonl", tmp_path / "broken.jsonl"
    other.write_text('{"prompt": "x"}\n')
    broken.write_text("no json\n")
    with ChatSession(run / "exports/gguf-f16") as session:
        with pytest.raises(DatasetError, match="nothing to save"):
            session.save(tmp_path / "new.jsonl")
        session.ask(GRASS)
        for path, words in (
            (other, 'its rows hold no "messages"'),
            (broken, "can't be added to"),
            (tmp_path / "chats.txt", "no name for a file of conversations"),
            (tmp_path / "none" / "chats.jsonl", "can't be written"),
        ):
            with pytest.raises(DatasetError, match=words):
                session.save(path)
    assert (other.read_text(), broken.read_text()) == ('{"prompt": "x"}\n', "no json\n")
    assert sorted(tmp_path.iterdir()) == [broken, other]


@pytest.mark.parametrize("target", ["exports/merged_16bit", "exports/gguf-f16"])
def test_a_seed_draws_the_same_again_and_other_seeds_draw_otherwise(run: Path, target: str) -> None:
    def drawn(**options: Any) -> list[str]:
        with ChatSession(run / target, max_new_tokens=8, temperature=3.0, **options) as session:
            answers = []
            for _ in range(2):
                session.reset()
                answers.append(session.ask(GRASS))
            return answers

    first, again = drawn(seed=1)
    assert first == again == drawn(seed=1)[0]
    assert len({first, *(drawn(seed=seed)[0] for seed in (2, 3))}) == 3
    unseeded = drawn()
    assert unseeded[0] != unseeded[1]
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert set(drawn(**narrow)) == {"It is purple."}


def test_both_backends_draw_from_the_same_tokens_and_penalise_alike(run: Path) -> None:
    """At so high a temperature what is left of the vocabulary is drawn from evenly: top_k 2 gives two first tokens."""
    first: dict[str, set[str]] = {}
    penalised = set()
    for target in ("exports/merged_16bit", "exports/gguf-f16"):
        with ChatSession(run / target, max_new_tokens=1) as session:
            first[target] = set()
            for seed in range(16):
                session.reset()
                session.sampling = Sampling(temperature=1000.0, top_k=2, seed=seed)
                first[target].add(session.ask(GRASS))
            session.max_new_tokens, session.sampling = 12, Sampling(repetition_penalty=1000.0)
            session.reset()
            penalised.add(session.ask(GRASS))
    assert len(first["exports/gguf-f16"]) == 2
    assert first["exports/merged_16bit"] == first["exports/gguf-f16"]
    assert len(penalised) == 1
    assert penalised != {"It is purple."}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_p": 0.9}, "at temperature 0 nothing is drawn"),
        ({"temperature": -1}, "temperature is -1; expected 0 or more"),
        ({"temperature": 1, "top_p": 0}, "top_p is 0; expected above 0"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_out_of_range_are_errors(run: Path, options: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        ChatSession(run, **options)


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
    # A shell starts what runs in its background with SIGINT ignored, and children inherit that.
    script = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    script += "from fastft.chat_terminal import chat; chat(sys.argv[1])"
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


@pytest.mark.parametrize(("columns", "together"), [(100, True), (60, False)])
def test_in_a_terminal_two_answers_stand_side_by_side_where_there_is_room(
    run: Path, monkeypatch: pytest.MonkeyPatch, columns: int, together: bool
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    leader, follower = pty.openpty()
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(_until(leader, "the end")))
    reader.start()
    with ChatSession(run / "adapter") as session, os.fdopen(follower, "w") as out:
        terminal = _Terminal(session, out, out)
        terminal.take("/compare")
        terminal.take(GRASS)
        print("the end", file=out, flush=True)
        reader.join()
    os.close(leader)
    between = read[0].rpartition("It is green.")[2].partition("It is purple.")[0]
    assert between.isspace() is together
    assert ("tuned" in between) is not together


def _interrupt_until(process: subprocess.Popen[bytes], descriptor: int, text: str) -> None:
    """readline takes a signal only once it waits for a key, and nothing tells when that is: so, again."""
    for _ in range(45):
        process.send_signal(signal.SIGINT)
        if select.select([descriptor], [], [], 2.0)[0]:  # long enough for a busy machine to answer the one before
            _until(descriptor, text)
            return
    raise AssertionError("no answer to Ctrl-C")


def _until(descriptor: int, text: str) -> str:
    """Read the terminal until `text` has come; what was read."""
    seen = ""
    while text not in seen:
        ready, _, _ = select.select([descriptor], [], [], 30)
        assert ready, f"{text!r} never came; got {seen!r}"
        seen += os.read(descriptor, 1).decode(errors="replace")
    return seen
