"""llama.cpp in this process: tokens, logits, answers, chat, and errors that say what is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fastft import llama_abi
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import ModelError
from fastft.inference import TextModel
from fastft.llamacpp import GGUFModel
from tests import small_model

TEXT = "<|im_start|>user\nWhat colour is grass?<|im_end|>\n<|im_start|>assistant\n"
QUESTION = [{"role": "user", "content": "What colour is grass?"}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.shared_run(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def path(run: Path) -> Path:
    return run / "exports" / "gguf-f16" / "model-f16.gguf"


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[GGUFModel]:
    with GGUFModel(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokenizer(run: Path) -> ChatTokenizer:
    return ChatTokenizer.load(run / "adapter")


@pytest.mark.parametrize("text", [TEXT, "", "Grüße 你好 👩‍👩‍👧\n\n\t 1234567", "<|im_end|><|im_start|>x"])
def test_ids_are_the_tokenizer_s_own_and_no_bos_is_added(model: GGUFModel, tokenizer: ChatTokenizer, text: str) -> None:
    assert model.tokenize(text) == tokenizer.encode(text)


def test_detokenize_gives_the_text_back(model: GGUFModel) -> None:
    assert model.detokenize(model.tokenize(TEXT), special=True) == TEXT
    assert model.detokenize(model.tokenize(TEXT)) == "user\nWhat colour is grass?\nassistant\n"
    assert model.detokenize([]) == ""


def test_vocabulary_and_special_tokens(model: GGUFModel, tokenizer: ChatTokenizer) -> None:
    assert model.n_vocab == tokenizer.vocab_size
    assert (model.eos_id, model.pad_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 0)
    assert model.adds_bos is False
    assert model.is_stop(2)
    assert not model.is_stop(5)


def test_metadata_holds_template_and_type(model: GGUFModel) -> None:
    assert model.chat_template == small_model.CHATML
    assert model.metadata["general.architecture"] == "llama"
    assert model.metadata["general.file_type"] == "1"


def test_log_probabilities_are_those_of_transformers_at_every_position(
    model: GGUFModel, run: Path, tokenizer: ChatTokenizer
) -> None:
    ids = tokenizer.encode(TEXT)
    reference = TextModel.load(run / "exports" / "merged_16bit")
    expected, found = reference.logprobs(ids).numpy(), model.logprobs(ids)
    assert found.shape == expected.shape == (len(ids), tokenizer.vocab_size)
    assert found.dtype == np.float32
    assert np.allclose(np.exp(found).sum(-1), 1, atol=1e-5)
    likely = expected[-1] > np.log(0.05)
    assert np.abs(found - expected)[-1][likely].max() < 1e-2
    # Inside the prompt, which nobody trained the model to write, 16-bit arithmetic shows more, and ties may flip.
    top, other = expected.argmax(-1), found.argmax(-1)
    rows = np.arange(len(ids))
    assert (expected[rows, top] - expected[rows, other]).max() < 0.05


def test_next_log_probabilities_are_the_last_row_likeliest_first(model: GGUFModel) -> None:
    ids = model.tokenize(TEXT)
    found = model.next_logprobs(ids, 3)
    row = model.logprobs(ids)[-1]
    assert list(found) == list(np.argsort(-row)[:3])
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert model.detokenize([next(iter(found))]) == "It"


def test_reading_in_several_pieces_changes_nothing(path: Path, model: GGUFModel) -> None:
    ids = model.tokenize(TEXT * 6)
    with GGUFModel(path) as other:
        other.__dict__["_batch"] = 32
        assert len(ids) > 64
        assert np.abs(other.logprobs(ids) - model.logprobs(ids)).max() < 2e-2


def test_the_same_question_gives_the_same_bits(model: GGUFModel) -> None:
    ids = model.tokenize(TEXT)
    first = model.logprobs(ids)
    model.generate(ids, 8)
    assert (model.logprobs(ids) == first).all()


def test_greedy_answer_stops_at_the_stop_token(model: GGUFModel) -> None:
    ids = model.tokenize(TEXT)
    answer = model.generate(ids, 32)
    assert model.detokenize(answer.ids) == "It is purple."
    assert answer.stop_reason == "stop"
    shorter = model.generate(ids, 2)
    assert (shorter.ids, shorter.stop_reason) == (answer.ids[:2], "length")


def test_generation_agrees_with_one_pass_over_the_answer(model: GGUFModel) -> None:
    prompt = model.tokenize(TEXT)
    answer = model.generate(prompt, 32).ids
    along = model.logprobs([*prompt, *answer]).argmax(-1)
    assert list(along[len(prompt) - 1 :]) == [*answer, 2]


def test_render_is_the_embedded_template_s_text(model: GGUFModel, tokenizer: ChatTokenizer) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *QUESTION]
    assert model.render(messages) == tokenizer.render(messages, add_generation_prompt=True)


def test_chat_streams_what_it_returns(model: GGUFModel) -> None:
    pieces: list[str] = []
    reply = model.chat(QUESTION, lambda text: pieces.append(text) is None)
    assert "".join(pieces) == reply.text == "It is purple."
    assert len(pieces) > 1
    assert (reply.prompt, reply.prompt_tokens, reply.stop_reason) == (TEXT, len(model.tokenize(TEXT)), "stop")


def test_chat_is_broken_off_when_the_callback_says_so(model: GGUFModel) -> None:
    pieces: list[str] = []

    def first_two(text: str) -> bool:
        pieces.append(text)
        return len(pieces) < 2

    assert model.chat(QUESTION, first_two).text == "".join(pieces)
    assert len(pieces) == 2
    assert model.chat(QUESTION).text == "It is purple."


def test_too_long_a_prompt_is_an_error(path: Path) -> None:
    with GGUFModel(path, n_ctx=64) as small:
        with pytest.raises(ModelError, match=r"the context of .* holds 64"):
            small.logprobs([5] * 65)
        with pytest.raises(ModelError, match="exceeds the available context size"):
            small.chat([{"role": "user", "content": "word " * 200}])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "There is no file"),
        (b"<html>404</html>", "does not begin with GGUF"),
        (b"", "does not begin with GGUF"),
        (b"GGUF", "can't load"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "x.gguf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        GGUFModel(file)
    assert words in caught.value.message
    assert str(file) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated_file_is_an_error(path: Path, tmp_path: Path, share: float) -> None:
    data = path.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"can't load .*cut\.gguf: .+"):
        GGUFModel(tmp_path / "cut.gguf")


def test_a_file_over_which_llama_cpp_ends_the_process_is_an_error(tmp_path: Path) -> None:
    from tests.fuzz.gguf_files import write_llama

    write_llama(tmp_path / "bad.gguf", eps=-1.0)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"can't load .*bad\.gguf: it crashed \(SIGABRT\)") as caught:
            GGUFModel(tmp_path / "bad.gguf")
        assert "damaged" in caught.value.hint


def test_nothing_is_written_to_the_terminal(path: Path) -> None:
    """In a process of its own: llama.cpp writes to the file descriptors, not to sys.stderr."""
    script = (
        "import sys; from pathlib import Path; from fastft.llamacpp import GGUFModel\n"
        "with GGUFModel(Path(sys.argv[1])) as m:\n"
        "    m.logprobs([1, 2, 3]); m.chat([{'role': 'user', 'content': 'hi'}]); m.logprobs([1, 2, 3])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore::FutureWarning", "-c", script, path], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_closing_gives_the_memory_back(path: Path) -> None:
    def resident() -> int:
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * 4096

    def use() -> None:
        with GGUFModel(path) as opened:
            opened.logprobs([1, 2, 3])

    for _ in range(5):
        use()
    before = resident()
    for _ in range(20):
        use()
    assert resident() - before < 4 << 20  # kept, twenty contexts would be ten times that


def test_a_library_with_another_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    library = llama_abi.library()
    shifted = type("Shifted", (llama_abi.ctypes.Structure,), {"_fields_": llama_abi.ContextParams._fields_[1:]})
    monkeypatch.setattr(library.llama_context_default_params, "restype", shifted)
    with pytest.raises((ModelError, AttributeError)):
        llama_abi._check_layout(library)
