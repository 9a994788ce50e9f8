"""`fastft serve` as a user starts it, and a stock OpenAI client that asks it."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from fastft.chat import ChatSession
from fastft.errors import FastftError, ModelError, RecipeError
from fastft.serving import Place, find_served, serve, served_name
from fastft.vllm_serving import arguments, find_vllm

KEY = "a-key-of-the-tests"
PEOPLE = ("Ana", "Theo", "Elif", "Tom", "Ben")
TOWNS = ("Oakdale", "Marsh", "Valemouth", "Ashton", "Larkham")
QUESTIONS = [
    *(f"Where does {name} live?" for name in PEOPLE),
    *(f"Which animal does {name} have?" for name in PEOPLE),
    *(f"What is the job of {name}?" for name in PEOPLE),
    *(f"Who is the mayor of {town}?" for town in TOWNS),
]
SYSTEM = "Answer in one word."


@dataclass
class Served:
    process: subprocess.Popen[str]
    address: str
    text: str

    def ask(self, messages: list[dict[str, str]] | str, **options: Any) -> Any:
        client = openai.OpenAI(base_url=f"{self.address}/v1", api_key=options.pop("key", KEY), max_retries=0)
        given: Any = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        return client.chat.completions.create(model="any", messages=given, **options)


@contextlib.contextmanager
def serving(target: Path, *options: str, key: str | None = KEY) -> Iterator[Served]:
    """`fastft serve` on a free port, from when it says it is ready."""
    environment = {name: value for name, value in os.environ.items() if name != "FASTFT_API_KEY"}
    command = [sys.executable, "-m", "fastft", "serve", str(target), "--port", "0", *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment | ({"FASTFT_API_KEY": key} if key else {}),
    )
    assert process.stdout is not None
    try:
        text = ""
        while "Ctrl-C ends it." not in text:
            line = process.stdout.readline()
            assert line, text
            text += line
        yield Served(process, text.splitlines()[0].removeprefix("serving "), text)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A run called quickstart whose exports are fastft/tiny, the GGUF made by fastft's own converter."""
    from fastft.exporters.gguf import convert

    folder = tmp_path_factory.mktemp("serving") / "quickstart"
    gguf = folder / "exports" / "gguf-bf16" / "model-bf16.gguf"
    gguf.parent.mkdir(parents=True)
    shutil.copytree(tiny, folder / "exports" / "merged_16bit")
    convert(folder / "exports" / "merged_16bit", gguf, name="quickstart")
    (folder / "recipe.yaml").write_text("method: sft\n")
    (folder / "manifest.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Served]:
    with serving(run) as served:
        yield served


@pytest.fixture(scope="module")
def transformers_answers(run: Path) -> dict[str, str]:
    """What plain transformers makes of the merged folder, greedily."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = run / "exports" / "merged_16bit"
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    found = {}
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        out = model.generate(**ids, max_new_tokens=64, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert out[-1] == tokenizer.eos_token_id
        found[question] = tokenizer.decode(out, skip_special_tokens=True)
    return found


@pytest.mark.slow
def test_an_openai_client_gets_transformers_answers_and_all_stop(
    server: Served, transformers_answers: dict[str, str]
) -> None:
    choices = {question: server.ask(question, temperature=0, max_tokens=64).choices[0] for question in QUESTIONS}
    assert {question: choice.message.content for question, choice in choices.items()} == transformers_answers
    assert {choice.finish_reason for choice in choices.values()} == {"stop"}
    assert len(set(transformers_answers.values())) > 15


@pytest.mark.parametrize("export", ["merged_16bit", "gguf-bf16"])
def test_chat_gives_the_same_answers(run: Path, transformers_answers: dict[str, str], export: str) -> None:
    with ChatSession(run / "exports" / export, max_new_tokens=64) as session:
        for question, answer in transformers_answers.items():
            session.reset()
            assert session.ask(question) == answer


def test_greedy_is_the_default_and_a_conversation_is_fed_whole(server: Served, run: Path) -> None:
    with ChatSession(run / "exports" / "merged_16bit", system=SYSTEM) as session:
        for question in ("Where does Ana live?", "What is the job of Tom?"):
            asked = [*session.messages, {"role": "user", "content": question}]
            assert session.ask(question) == server.ask(asked).choices[0].message.content


def test_streaming_gives_the_same_text_in_pieces(server: Served, transformers_answers: dict[str, str]) -> None:
    for question in QUESTIONS[:3]:
        chunks = [chunk.choices[0] for chunk in server.ask(question, stream=True) if chunk.choices]
        pieces = [chunk.delta.content for chunk in chunks if chunk.delta.content]
        assert "".join(pieces) == transformers_answers[question]
        assert len(pieces) > 2
        assert chunks[-1].finish_reason == "stop"


def test_clients_at_the_same_time_get_their_own_answers(server: Served, transformers_answers: dict[str, str]) -> None:
    found: dict[str, str] = {}

    def ask(question: str) -> None:
        found[question] = server.ask(question).choices[0].message.content

    threads = [threading.Thread(target=ask, args=[question]) for question in QUESTIONS[:8]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {question: transformers_answers[question] for question in QUESTIONS[:8]}


def test_a_temperature_in_the_request_samples_from_all_tokens(server: Served) -> None:
    answers = {
        server.ask(QUESTIONS[0], temperature=3.0, max_tokens=8, seed=n).choices[0].message.content for n in (1, 2, 3)
    }
    assert len(answers) == 3


def test_plain_completions_and_the_list_of_models(server: Served) -> None:
    client = openai.OpenAI(base_url=f"{server.address}/v1", api_key=KEY)
    assert [model.id for model in client.models.list().data] == ["quickstart"]
    prompt = "<|im_start|>user\nWhere does Ana live?<|im_end|>\n<|im_start|>assistant\n"
    answer = client.completions.create(model="quickstart", prompt=prompt, max_tokens=32).choices[0]
    assert (answer.text, answer.finish_reason) == (
        server.ask("Where does Ana live?").choices[0].message.content,
        "stop",
    )


@pytest.mark.parametrize("key", ["wrong", ""])
def test_a_client_without_the_key_is_refused(server: Served, key: str) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        server.ask("Hello", key=key or "none")
    assert caught.value.status_code == 401
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{server.address}/props")


def test_health_and_the_web_page_are_there(server: Served) -> None:
    with urllib.request.urlopen(f"{server.address}/health") as answer:
        assert json.load(answer) == {"status": "ok"}
    request = urllib.request.Request(server.address, headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request) as answer:
        assert "<!doctype html>" in gzip.decompress(answer.read()).decode()


def test_pages_of_other_sites_can_t_use_it(server: Served) -> None:
    for origin, allowed in (("http://evil.example", None), ("http://localhost:3000", "http://localhost:3000")):
        request = urllib.request.Request(f"{server.address}/health", headers={"Origin": origin})
        with urllib.request.urlopen(request) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == allowed


def _listening(port: int) -> set[str]:
    listening = (c.laddr for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN)
    return {str(address[0]) for address in map(tuple, listening) if address[1] == port}


def _port(served: Served) -> int:
    return int(served.address.rpartition(":")[2])


def test_only_this_machine_can_connect_and_the_key_is_shown_nowhere(server: Served) -> None:
    assert _listening(_port(server)) == {"127.0.0.1"}
    family = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    assert len(family) == 2
    assert not any(KEY in word for process in family for word in process.cmdline())
    assert KEY not in server.text
    assert "warning" not in server.text
    assert 'Bearer $FASTFT_API_KEY"' in server.text


def test_another_host_is_listened_on_when_asked_with_a_warning(run: Path) -> None:
    with serving(run, "--host", "0.0.0.0", "--n-ctx", "512", key=None) as served:
        assert "warning: anyone who reaches 0.0.0.0:" in served.text
        assert "512 of the model's 1024 tokens" in " ".join(served.text.split())
        assert _listening(_port(served)) == {"0.0.0.0"}
        assert served.ask("Where does Ana live?", key="none").choices[0].finish_reason == "stop"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_it_ends_cleanly_while_it_answers(run: Path, name: str) -> None:
    with serving(run, key=None) as served:
        stream = served.ask("Hello", key="none", stream=True, extra_body={"ignore_eos": True}, max_tokens=900)
        next(iter(stream))
        served.process.send_signal(signal.Signals[name])
        assert served.process.wait(10) == 0
        assert served.process.stdout is not None
        assert served.process.stdout.read().strip() == ""
        assert _listening(_port(served)) == set()


def test_the_server_ends_with_fastft_however_that_ends(run: Path) -> None:
    with serving(run, key=None) as served:
        (child,) = psutil.Process(served.process.pid).children()
        served.process.kill()
        served.process.wait()
        child.wait(10)
        assert not child.is_running()


def test_a_server_that_dies_is_told(run: Path) -> None:
    with serving(run, key=None) as served:
        (child,) = psutil.Process(served.process.pid).children()
        child.kill()
        assert served.process.wait(10) == 2
        assert served.process.stdout is not None
        assert "llama.cpp's server has ended with" in served.process.stdout.read()


def test_a_busy_port_is_one_clear_error(run: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ModelError, match=f"127.0.0.1:{port} can't be listened on: address already in use"):
            serve(run, port=port)


def test_several_exports_are_named_and_one_is_chosen_by_its_folder(run: Path, tmp_path: Path) -> None:
    two = shutil.copytree(run, tmp_path / "two")
    shutil.copytree(two / "exports" / "gguf-bf16", two / "exports" / "gguf-f16")
    with pytest.raises(ModelError, match="has 2 GGUF exports") as caught:
        serve(two)
    assert str(two / "exports" / "gguf-f16" / "model-bf16.gguf") in caught.value.hint
    assert find_served(two / "exports" / "gguf-f16").gguf == two / "exports" / "gguf-f16" / "model-bf16.gguf"


def test_names_are_the_run_s_the_file_s_or_the_folder_s(run: Path, tiny: Path, tmp_path: Path) -> None:
    loose = tmp_path / "my-model.gguf"
    shutil.copy(next(run.glob("exports/*/*.gguf")), loose)
    targets = (run, run / "exports" / "merged_16bit", loose, tiny, "fastft/tiny")
    assert [served_name(find_served(t)) for t in targets] == ["quickstart", "quickstart", "my-model", "model", "tiny"]


def test_a_model_folder_without_vllm_says_what_to_serve_instead(run: Path, tmp_path: Path) -> None:
    if find_vllm():
        pytest.skip("vLLM is installed here")
    with pytest.raises(ModelError, match="vLLM is not installed") as caught:
        serve(run / "exports" / "merged_16bit", port=0)
    assert caught.value.hint.endswith("gguf-bf16/model-bf16.gguf")
    without = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("gguf-*"))
    with pytest.raises(ModelError) as caught:
        serve(without / "exports" / "merged_16bit", port=0)
    assert f"fastft export {without} --format gguf" in caught.value.hint


def test_vllm_listens_where_it_is_told_and_answers_greedily(tiny: Path) -> None:
    found = arguments(tiny, "mine", Place("127.0.0.1", 8080, KEY), 512)
    assert found[:2] == ["serve", str(tiny)]
    options = dict(zip(found[2::2], found[3::2], strict=True))
    assert json.loads(options.pop("--override-generation-config"))["temperature"] == 0
    assert options == {
        "--host": "127.0.0.1", "--port": "8080", "--served-model-name": "mine", "--max-model-len": "512"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"n_ctx": 5000}, RecipeError, "--n-ctx is 5000, and .* was trained for 1024 tokens"),
        ({"api_key_env": "NOT_SET_HERE"}, RecipeError, "NOT_SET_HERE holds no key"),
        ({"host": "192.0.2.1"}, ModelError, "192.0.2.1:0 can't be listened on"),
    ],
)
def test_options_that_can_t_be_are_errors(run: Path, options: Any, kind: type[FastftError], words: str) -> None:
    with pytest.raises(kind, match=words):
        serve(run, **{"port": 0, **options})


def test_nothing_to_serve_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is nothing at"):
        serve(tmp_path / "nowhere")
    (tmp_path / "recipe.yaml").write_text("method: sft\n")
    with pytest.raises(ModelError, match="has not finished training"):
        serve(tmp_path)
