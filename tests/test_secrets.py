"""Tokens, keys and passwords never reach what a run leaves behind or prints, whatever goes wrong."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from html import escape
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml

from fastft.errors import Fault, ModelError, RecipeError
from fastft.recipe.load import load_recipe
from fastft.redaction import redact, redact_file
from tests.short_runs import recipe_of, write_chats

SECRETS = {
    "HF_TOKEN": "hf_PlantedTokenOfTheHub0123456789",
    "HUGGING_FACE_HUB_TOKEN": "hf_PlantedOlderNameOfIt0123456789",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdefplanted",
    "OPENAI_API_KEY": "sk-planted-0123456789",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDPLANTED00",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+of/aws0123456789abcdefghi",
    "FASTFT_API_KEY": "planted-key-of-the-server",
    "DATABASE_PASSWORD": "planted-password-of-a-database",
    "PGPASSWORD": 'planted-p@ss"w\\ord/of pg',
    "AZURE_STORAGE_KEY": "planted+azure/key0123456789==",
    "AZURE_STORAGE_CONNECTION_STRING": "Protocol=https;AccountKey=planted/account+key==;EndpointSuffix=x",
    "SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T0PLANTED/B0PLANTED/plantedplantedplanted",
    "MY_DB_PASS": "planted-pass-of-mine",
    "GITHUB_PAT": "planted0pat0of0github",
    "SSH_PRIVATE_KEY": "-----BEGIN KEY-----\nplantedLineOfTheKey1\nplantedLineOfTheKey2\n-----END KEY-----",
}
PROXY = "planted-password-of-the-proxy"
STORED = "hf_PlantedAmongTheStoredTokens0123"
GIT = "planted-password-of-git"
NETRC = "planted-password-of-netrc"
IN_FILE = "hf_PlantedInTheTokenFile0123456789"
PLANTED = {
    **SECRETS,
    "the proxy": PROXY,
    "netrc": NETRC,
    "the token's file": IN_FILE,
    "stored tokens": STORED,
    "git": GIT,
}
PLANTED |= {"a line": "plantedLineOfTheKey1", "another": "plantedLineOfTheKey2", "account": "planted/account+key=="}


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment full of secrets, with a home folder that holds more."""
    folder = tmp_path / "home"
    (folder / "hub").mkdir(parents=True)
    (folder / "hub" / "token").write_text(IN_FILE)
    (folder / "hub" / "stored_tokens").write_text(f"[mine]\nhf_token = {STORED}\n")
    (folder / ".git-credentials").write_text(f"https://user:{GIT}@github.com\n")
    (folder / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {NETRC}\n")
    proxies = {"NO_PROXY": "*", "HTTPS_PROXY": f"http://user:{PROXY}@127.0.0.1:9"}
    places = {"HOME": str(folder), "HF_HOME": str(folder / "hub"), "XDG_CACHE_HOME": str(Path.home() / ".cache")}
    return {**os.environ, **SECRETS, **proxies, **places, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


def _run(home: dict[str, str], cwd: Path, *arguments: str | Path) -> tuple[int, bytes]:
    command = [sys.executable, "-m", "fastft", "--traceback", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, env=home, cwd=cwd, timeout=300)
    return done.returncode, done.stdout + done.stderr


def _require_none(said: bytes, folder: Path) -> int:
    """The number of files below `folder`, in none of which a secret stands."""
    written = [path for path in folder.rglob("*") if path.is_file()]
    for name, secret in PLANTED.items():
        assert secret.encode() not in said, name
        assert [path for path in written if secret.encode() in path.read_bytes()] == [], name
    return len(written)


# What a person's own code may do with the environment: print it, log it, raise it.
_TALKATIVE = """
import logging, os, subprocess, sys
from transformers import TrainerCallback

class Talkative(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        everything = " ".join(f"{name}={value}" for name, value in os.environ.items())
        everything += open(os.path.expanduser("~/.netrc")).read() + open(os.environ["HF_HOME"] + "/token").read()
        print(everything)
        logging.getLogger("x").error(everything)
        subprocess.run([sys.executable, "-c", "import os; print(dict(os.environ))"])
        if state.global_step == 2:
            raise RuntimeError(everything)
"""


@pytest.mark.slow
def test_no_secret_is_in_any_output(tmp_path: Path, home: dict[str, str]) -> None:
    """Of a training that ends well, with an export and a proof; then checks, plans and cards of it."""
    recipe = recipe_of(write_chats(tmp_path / "chats.jsonl"), training={"max_steps": 2})
    recipe |= {"export": {"formats": ["merged_16bit"]}, "output_dir": str(tmp_path / "run")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, said = _run(home, tmp_path, "train", tmp_path / "recipe.yaml")
    assert code in (0, 1), said  # whether two steps are enough for the proof isn't asked here
    for command in (("check", tmp_path / "recipe.yaml"), ("plan", tmp_path / "recipe.yaml"), ("chat", tmp_path / "no")):
        said += _run(home, tmp_path, *command)[1]
    assert _require_none(said, tmp_path / "run") > 15


@pytest.mark.slow
def test_a_failure_that_tells_all_tells_no_secret(tmp_path: Path, home: dict[str, str]) -> None:
    """A callback prints, logs and raises the whole environment."""
    (tmp_path / "talk.py").write_text(_TALKATIVE)
    recipe = recipe_of(write_chats(tmp_path / "chats.jsonl"), callbacks=[str(tmp_path / "talk.py:Talkative")])
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"output_dir": str(tmp_path / "run")}))
    code, said = _run(home, tmp_path, "train", tmp_path / "recipe.yaml")
    assert code == 1, said
    assert b"WANDB_API_KEY=***" in said  # the failure is told, without them
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("WANDB_API_KEY=***") >= 2
    assert "'WANDB_API_KEY': '***'" in log  # of the process it started, whose output no line of ours has seen
    _require_none(said, tmp_path / "run")


@pytest.mark.parametrize(
    "values",
    [
        {"data.path": "https://user:planted-password@example.com/rows.jsonl"},
        {"model.model_name": "https://hf_PlantedTokenOfTheHub0123456789@huggingface.co/owner/name"},
        {"evaluation.prompts": ["My key is sk-planted0123456789abcdef"]},
        {"training.run_name": "hf_PlantedTokenOfTheHub0123456789"},
        {"training.hub_token": "hf_PlantedTokenOfTheHub0123456789"},
    ],
    ids=lambda values: next(iter(values)),
)
def test_a_recipe_with_a_secret_is_refused_without_quoting_it(tmp_path: Path, values: dict[str, object]) -> None:
    recipe = recipe_of(write_chats(tmp_path / "chats.jsonl"))
    for key, value in values.items():
        section, name = key.split(".")
        recipe[section] = {**recipe[section], name: value}
    with pytest.raises(RecipeError) as raised:
        load_recipe(recipe)
    told = f"{raised.value} {raised.value.hint} {' '.join(raised.value.fault_lines)}"
    assert next(iter(values)).split(".")[1] in told
    assert "lanted" not in told


def test_what_is_known_for_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("https_proxy", f"http://user:{PROXY}@127.0.0.1:9")
    for name, secret in {**SECRETS, "the proxy": PROXY}.items():
        assert redact(f"<{secret}>") == "<***>", name
    assert redact("https://u:p@h/x and https://h:80/a@b") == "https://***@h/x and https://h:80/a@b"
    kept = "hf_hub_download of https://huggingface.co/a/b at step 10, sk-learn, /root/.cache/token"
    assert redact(kept) == kept
    assert ModelError(f"no {PROXY}", hint=PROXY).message == "no ***"
    assert str(Fault("here", PROXY, "else")) == "here: ***; expected else"
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    monkeypatch.setenv("PATH_TO_KEY", "/root")
    assert redact("abc /root") == "abc /root"


@pytest.mark.parametrize("name", ["PGPASSWORD", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"])
def test_a_secret_is_known_however_it_is_written(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    secret = SECRETS[name]
    monkeypatch.setenv(name, secret)
    forms = [
        secret,
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        quote(secret),
        quote(secret, safe=""),
        escape(secret),
    ]
    for form in forms:
        assert redact(f"<{form}>") == "<***>"
    for before in ("", "u", "us", "user:"):  # Authorization: Basic …
        encoded = base64.b64encode(f"{before}{secret}".encode()).decode()
        assert len(redact(encoded).replace("***", "")) <= len(before) * 2 + 6, before
    middle = len(secret) // 2
    assert redact(f"a {secret[:middle]}\n   {secret[middle:]} b\n") == "a *** b\n"
    assert redact(f"│ a {secret[:middle]} │\n│ {secret[middle:]} b │\n") == "│ a *** b │\n"


def test_names_that_speak_of_secrets_and_hold_none(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = {
        "TOKENIZERS_PARALLELISM": "definitely", "MAX_TOKENS": "1000000000", "API_KEY_FILE": "/nowhere/to/be/found",
        "SORT_KEY": "timestamp", "PWD": "/gone/folder", "KEYBOARD": "qwertyuiop", "SECRET_NAME": "projects/mine",
    }  # fmt: skip
    for name, value in plain.items():
        monkeypatch.setenv(name, value)
    for value in plain.values():
        assert redact(f"<{value}>") == f"<{value}>"


def test_half_a_secret_is_not_left_where_a_message_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = SECRETS["WANDB_API_KEY"]
    monkeypatch.setenv("WANDB_API_KEY", secret)
    for before in range(700, 801):
        told = ModelError(f"{'x' * before}{secret}{'y' * 900}", hint=f"{'x' * (before + 2400)}{secret}{'y' * 4000}")
        assert secret[:6] not in f"{told} {told.hint}"


def test_what_was_typed_wrongly_is_told_without_a_secret(tmp_path: Path, home: dict[str, str]) -> None:
    token = SECRETS["HF_TOKEN"]
    for arguments in (
        ["replay", str(tmp_path), "--step", token],
        ["train", f"--{token}"],
        ["check", "a", f"b={token}"],
    ):
        code, said = _run(home, tmp_path, *arguments)
        assert (code, token.encode() in said) == (2, False), said


def test_a_file_without_secrets_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    log = tmp_path / "log"
    log.write_bytes(b"\xff some \r\n bytes")
    before = log.stat().st_mtime_ns
    redact_file(log)
    assert (log.read_bytes(), log.stat().st_mtime_ns) == (b"\xff some \r\n bytes", before)
    log.write_bytes(b"\xff " + SECRETS["HF_TOKEN"].encode() + b"\r\n")
    redact_file(log)
    assert log.read_bytes() == b"\xff ***\r\n"
