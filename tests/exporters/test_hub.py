"""Uploads by the real huggingface_hub to a small server on this machine, which keeps what it gets."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from fastft.errors import ExportError, RecipeError
from fastft.exporting import export
from fastft.files import sha256_of
from tests.exporters.models import save_adapter

TOKEN = "hf_secretsecretsecret"


class Hub(ThreadingHTTPServer):
    """Answers what create_repo and create_commit ask; `repositories` holds {name: {path: bytes}}."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits: list[str] = []
        self.tokens: set[str | None] = set()
        self.refuses = 0  # the status of all answers, if not 0
        self.hangs_up = False


class _Handler(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self._body()
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.server.hangs_up:
            return
        if self.server.refuses:
            self._answer({"error": "You don't have the rights"}, self.server.refuses)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.repositories.setdefault(name, {})
            self.server.private[name] = asked.get("private", asked.get("visibility") == "private")
            self._answer({"url": f"http://127.0.0.1:{self.server.server_port}/{name}"})
        elif "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                     for f in json.loads(body)["files"]]  # fmt: skip
            self._answer({"files": files})
        elif self.path == "/api/validate-yaml":  # the card's front matter
            assert json.loads(body)["content"].startswith("---")
            self._answer({"errors": [], "warnings": []})
        else:
            assert "/commit/main" in self.path
            name = "/".join(self.path.split("/")[3:5])
            for line in body.decode().splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    content = base64.b64decode(item["value"]["content"])
                    self.server.repositories[name][item["value"]["path"]] = content
            self.server.commits.append(name)
            url = f"http://127.0.0.1:{self.server.server_port}/{name}/commit/1"
            self._answer({"commitUrl": url, "commitOid": "1", "success": True})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)

    def _answer(self, value: object, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    folder = save_adapter(tiny, tmp_path_factory.mktemp("hub") / "my-lora", tiny, r=4, target_modules=["q_proj"])
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "fastft/tiny"}))
    export(folder, ["merged_16bit", "adapter", "gguf"], ["q8_0", "f16"])
    return folder


@pytest.mark.slow
def test_each_kind_gets_its_repository_with_a_card_and_the_proof(hub: Hub, adapter: Path) -> None:
    export(adapter, ["merged_16bit", "adapter", "gguf", "hub"], ["q8_0", "f16"], hub_model_id="me/parrot")
    assert sorted(hub.repositories) == ["me/parrot", "me/parrot-GGUF", "me/parrot-lora"]
    assert set(hub.private.values()) == {True}
    assert sorted(hub.commits) == sorted(hub.repositories)
    assert hub.tokens == {f"Bearer {TOKEN}"}
    merged, gguf = hub.repositories["me/parrot"], hub.repositories["me/parrot-GGUF"]
    for name in ("model.safetensors", "config.json", "chat_template.jinja", "generation_config.json"):
        assert merged[name] == (adapter / "exports" / "merged_16bit" / name).read_bytes()
    assert json.loads(merged["verification.json"])["passed"] is True
    assert {"model-q8_0.gguf", "model-f16.gguf", "Modelfile-q8_0", "Modelfile-f16", "verification-f16.json"} <= set(
        gguf
    )
    assert b"FROM ./model-q8_0.gguf" in gguf["Modelfile-q8_0"]
    assert "adapter_model.safetensors" in hub.repositories["me/parrot-lora"]


@pytest.mark.slow
def test_the_card_says_what_it_is_and_how_to_run_it(hub: Hub, adapter: Path) -> None:
    export(adapter, ["gguf", "hub"], ["q8_0"], hub_model_id="me/parrot")
    assert set(hub.repositories["me/parrot-GGUF"]) >= {"model-q8_0.gguf", "README.md"}
    assert "model-f16.gguf" not in hub.repositories["me/parrot-GGUF"]
    card = hub.repositories["me/parrot-GGUF"]["README.md"].decode()
    _, front, text = card.split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["base_model"] == "fastft/tiny"
    assert values["base_model_relation"] == "quantized"
    assert "ollama run hf.co/me/parrot-GGUF:Q8_0" in text
    assert "| KL divergence |" in text
    assert "every check passed" in text


@pytest.mark.slow
def test_the_token_is_written_nowhere(hub: Hub, adapter: Path) -> None:
    export(adapter, ["adapter", "hub"], hub_model_id="me/parrot")
    for path in adapter.rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes(), path
    for files in hub.repositories.values():
        assert all(TOKEN.encode() not in content for content in files.values())


@pytest.mark.slow
def test_what_was_not_proven_is_not_uploaded(hub: Hub, adapter: Path) -> None:
    proof = adapter / "exports" / "adapter" / "verification.json"
    content = proof.read_text()
    before = sha256_of(adapter / "exports" / "adapter" / "adapter_model.safetensors")
    proof.write_text(json.dumps({**json.loads(content), "passed": False}))
    from fastft.exporters.hub import upload_exports
    from fastft.recipe.schema import ExportSection
    from fastft.verification import trained_at

    section = ExportSection.model_validate({"formats": ["adapter", "hub"], "hub_model_id": "me/parrot"})
    with pytest.raises(ExportError, match="adapter can't be uploaded: it was not proven"):
        upload_exports(trained_at(adapter)[0], section)
    proof.write_text(content)
    assert hub.repositories == {}
    assert sha256_of(adapter / "exports" / "adapter" / "adapter_model.safetensors") == before


@pytest.mark.slow
def test_no_token_and_a_refusal_are_one_message(hub: Hub, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.refuses = 403
    with pytest.raises(ExportError, match="The Hub refused me/parrot-lora") as caught:
        export(adapter, ["adapter", "hub"], hub_model_id="me/parrot")
    assert "HF_TOKEN" in caught.value.hint
    assert TOKEN not in str(caught.value)
    hub.refuses = 0
    hub.hangs_up = True
    with pytest.raises(ExportError, match="The Hub can't be reached") as caught:
        export(adapter, ["adapter", "hub"], hub_model_id="me/parrot")
    assert "tries again" in caught.value.hint
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ExportError, match="without a token"):
        export(adapter, ["adapter", "hub"], hub_model_id="me/parrot")
    with pytest.raises(RecipeError, match="no repository is named"):
        export(adapter, ["adapter", "hub"])
