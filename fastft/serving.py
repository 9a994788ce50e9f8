"""`serve`: a model behind an OpenAI-compatible server, a GGUF through llama.cpp, a model folder through vLLM."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fastft.errors import ModelError, RecipeError
from fastft.files import at_home
from fastft.targets import ModelTarget, find_target

if TYPE_CHECKING:
    from rich.console import Console

KEY_VARIABLE = "FASTFT_API_KEY"
_POLL = 0.2  # seconds between two looks at a server


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens, and the key its clients must send, if any."""

    host: str
    port: int
    key: str | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """What a client on this machine connects to."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def is_private(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return False


class Server(Protocol):
    """A server that was started; it may still be loading."""

    @property
    def facts(self) -> dict[str, str]:
        """What is worth knowing of it, for people."""
        ...

    def check(self) -> None:
        """Raises ModelError if it has ended by itself."""
        ...

    def close(self) -> None: ...


def serve(
    target: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    n_ctx: int | None = None,
    api_key_env: str | None = None,
    console: Console | None = None,
) -> None:
    """Serve `target` until SIGINT or SIGTERM: a GGUF, or a run, an adapter or a folder that holds one GGUF export.

    A model folder, or a run without GGUF, goes to vLLM where that is installed. Port 0 takes a free one; `n_ctx` is
    the context in tokens, the model's own unless given. `api_key_env` names the environment variable that holds the
    key clients must send; FASTFT_API_KEY is read where it is set. Nothing is printed before the server answers.

    Raises ModelError: nothing there to serve, several files and none named, the port taken, vLLM missing; RecipeError
    for a context the model wasn't trained for, or a variable that isn't set.
    """
    from rich.console import Console

    console = console or Console(highlight=False, soft_wrap=True)
    variable, key = _key(api_key_env)
    model = find_served(target)
    place = Place(host, _require_free(host, port), key)
    with _signals_end_it(), contextlib.closing(_start(model, place, n_ctx)) as server:
        _wait_until_ready(server, place)
        _announce(console, model, place, server, variable)
        while True:
            server.check()
            time.sleep(_POLL)


def find_served(target: Path | str) -> ModelTarget:
    """The one model that `target` means to a server. Raises ModelError if there is none, or more than one."""
    folder = at_home(target)
    files = sorted((folder / "exports").glob("gguf-*/*.gguf"))
    if len(files) == 1:
        return find_target(files[0])
    if files:
        names = "\n".join(f"  {path}" for path in files)
        raise ModelError(f"{target} has {len(files)} GGUF exports", hint=f"Name one of them:\n{names}")
    found = find_target(target)
    if found.adapter is not None:
        if found.run is not None and found.adapter.absolute() == folder.absolute():
            return find_served(found.run.directory)
        merged = folder / "exports" / "merged_16bit"
        if not (merged / "config.json").is_file():
            raise ModelError(
                f"{target} has no export to serve",
                hint=f"Make one: fastft export {target} --format gguf --quantization q8_0",
            )
        found = find_target(merged)
    return found


def served_name(model: ModelTarget) -> str:
    """What /v1/models calls it: the run's name, or that of the file or folder."""
    if model.run is not None:
        return model.run.name
    path = model.gguf or Path(model.name)
    return path.stem if model.gguf is not None else path.absolute().name


def require_trained_for(n_ctx: int, trained: int, model: Path) -> None:
    """Raises RecipeError for a context of more tokens than `model` was trained for."""
    if n_ctx > trained:
        raise RecipeError(
            f"--n-ctx is {n_ctx}, and {model} was trained for {trained} tokens",
            hint="Beyond those it answers nonsense. Leave --n-ctx out for all of them.",
        )


def _key(variable: str | None) -> tuple[str, str | None]:
    """(name of the variable, the key in it). Only a variable that was asked for has to be set."""
    key = os.environ.get(variable or KEY_VARIABLE, "").strip()
    if variable is not None and not key:
        raise RecipeError(
            f"The environment variable {variable} holds no key: it is not set, or empty",
            hint=f"Set it first: export {variable}=…",
        )
    return variable or KEY_VARIABLE, key or None


def _require_free(host: str, port: int) -> int:
    """`port`, or a free one for 0. Raises ModelError if `host` can't be listened on, or the port is taken."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just left is free
            probe.bind(address)
            return probe.getsockname()[1]
    except OSError as error:
        raise ModelError(
            f"{host}:{port} can't be listened on: {(error.strerror or str(error)).lower()}",
            hint="Choose another port with --port (0 takes a free one), and an address of this machine with --host.",
        ) from error


def _start(model: ModelTarget, place: Place, n_ctx: int | None) -> Server:
    if model.gguf is not None:
        from fastft.llama_serving import LlamaServing

        return LlamaServing(model.gguf, served_name(model), place, n_ctx)
    from fastft.vllm_serving import VllmServing

    return VllmServing(model, served_name(model), place, n_ctx)


@contextlib.contextmanager
def _signals_end_it() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, and neither is an error."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if in_main_thread else None
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def _wait_until_ready(server: Server, place: Place) -> None:
    while not _is_healthy(place):
        server.check()
        time.sleep(_POLL)


def _is_healthy(place: Place) -> bool:
    host, _, port = place.address.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=10)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False


def _announce(console: Console, model: ModelTarget, place: Place, server: Server, variable: str) -> None:
    """One block: where it is, what answers there, and a request to try."""
    from rich.table import Table
    from rich.text import Text

    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]})
    key = f' -H "Authorization: Bearer ${variable}"' if place.key else ""
    curl = f"curl {place.address}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"
    facts = {"model": f"{served_name(model)} ({model.gguf or model.folder})", **server.facts}
    facts |= {"API": f"{place.address}/v1", "key": f"the value of {variable}" if place.key else "none is asked for"}
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(Text(f"  {name}", style="dim"), Text(value, overflow="fold"))
    console.print(Text.assemble(("serving ", "bold"), (place.address, "bold")))
    console.print(table)
    console.print(Text(f"\n{curl}\n"))
    if not place.is_private and place.key is None:
        console.print(
            f"[yellow]warning:[/] anyone who reaches {place.host}:{place.port} can use it; put a key into {variable}"
        )
    console.print("Ctrl-C ends it.")
