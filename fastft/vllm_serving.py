"""A model folder behind vLLM's own server, where vLLM is installed: a child process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from fastft.errors import ModelError
from fastft.model_code import refuse_model_code, require_safetensors
from fastft.model_files import read_text_config
from fastft.serving import Place, require_trained_for
from fastft.targets import ModelTarget

_PATIENCE = 30  # seconds it may take to end
# The folder's generation config stays in force otherwise: its stop tokens are in there.
_GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
_LINES = 12  # of its output, shown where it fails


class VllmServing:
    """`vllm serve` on one folder; what it prints goes to a log. Raises ModelError if vLLM is not installed."""

    def __init__(self, model: ModelTarget, name: str, place: Place, n_ctx: int | None) -> None:
        assert model.folder is not None
        require_safetensors(model.folder)
        refuse_model_code(model.folder)
        program = find_vllm()
        if program is None:
            raise ModelError(
                f"{model.folder} is a model folder, which takes vLLM to serve, and vLLM is not installed",
                hint=_instead(model),
            )
        command = [program, *arguments(model.folder, name, place, n_ctx)]
        key = {"VLLM_API_KEY": place.key} if place.key else {}
        descriptor, log = tempfile.mkstemp(prefix="fastft-vllm-", suffix=".log")
        self._log = Path(log)
        # In a session of its own a Ctrl-C reaches us alone, and it is us who end it.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            env=os.environ | key,
            start_new_session=True,
        )
        os.close(descriptor)

    @property
    def facts(self) -> dict[str, str]:
        return {"served by": "vLLM", "log": str(self._log)}

    def check(self) -> None:
        if self._process.poll() is None:
            return
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-_LINES:])
        raise ModelError(
            f"vLLM ended with exit code {self._process.returncode}:\n{tail}", hint=f"All of it: {self._log}"
        )

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def find_vllm() -> str | None:
    """The program `vllm`, beside this Python or on the path."""
    return shutil.which("vllm", path=str(Path(sys.executable).parent)) or shutil.which("vllm")


def arguments(folder: Path, name: str, place: Place, n_ctx: int | None) -> list[str]:
    """Of `vllm`: greedy where a request leaves it open, nothing taken from the folder's sampling options.

    Raises RecipeError for a context the model was not trained for.
    """
    positions = read_text_config(folder).get("max_position_embeddings")
    if n_ctx is not None and positions is not None:
        require_trained_for(n_ctx, positions, folder)
    found = ["serve", str(folder), "--host", place.host, "--port", str(place.port), "--served-model-name", name]
    found += ["--override-generation-config", json.dumps(_GREEDY)]
    return [*found, "--max-model-len", str(n_ctx)] if n_ctx is not None else found


def _instead(model: ModelTarget) -> str:
    """What to do without vLLM."""
    if model.run is None:
        return "Serve a GGUF of it instead: llama.cpp's convert_hf_to_gguf.py makes one. Or install vLLM."
    run = model.run.directory
    made = sorted(run.glob("exports/gguf-*/*.gguf"))
    if made:
        return f"Serve a GGUF of the same run instead: fastft serve {made[0]}"
    return f"Serve a GGUF instead: fastft export {run} --format gguf --quantization q8_0, then fastft serve {run}"
