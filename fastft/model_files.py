"""Where a model's files are: in the package, in a folder, or on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastft.errors import ModelError
from fastft.files import at_home, is_folder
from fastft.model_code import require_safetensors

TINY = "fastft/tiny"
_SMALL_FILES = ["*.json", "*.jinja", "tokenizer.model", "*.txt"]
_WEIGHTS = ["*.safetensors"]
_RUNS = "runs/"  # where runs go by default; nobody's name on the Hub, so it needn't be asked


def resolve_model(model_name: str, revision: str | None = None, *, weights: bool) -> Path:
    """A local folder with the model's files; of a Hub model only the small ones unless `weights`.

    A run directory stands for the model that was trained there. Raises ModelError if the model can't be found, with
    the Hub's own reason.
    """
    if model_name == TINY:
        return Path(__file__).parent / "tiny" / "model"
    folder = at_home(model_name)
    if is_folder(folder):
        from fastft.stages import stage_at, stage_folder

        run = stage_at(folder)
        return stage_folder(run, weights=weights) if run is not None else _checked(folder.resolve())
    if model_name.startswith(_RUNS):
        raise ModelError(
            f"model.model_name: there is no run {model_name} yet",
            hint="It is the stage before this one: train that first. Looked beside the recipe and in this folder.",
        )
    if model_name.startswith((".", "/", "~")) or model_name.count("/") != 1:
        raise ModelError(
            f"model.model_name: there is no folder {model_name[:200]}",
            hint="Give a folder with config.json, or a Hub id such as unsloth/Llama-3.2-3B-Instruct.",
        )
    if model_name.startswith("fastft/"):
        raise ModelError(f"model.model_name: fastft has no model {model_name}", hint=f"Did you mean {TINY}?")
    return _download(model_name, revision, weights)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises ModelError if it can't be read."""
    from fastft import run_files

    return run_files.read_config(folder)


def read_text_config(folder: Path) -> dict[str, Any]:
    """The language model's part of config.json: models of text and images keep it in `text_config`."""
    config = read_config(folder)
    from fastft import run_files

    return run_files.text_config(config, folder)


def _checked(folder: Path) -> Path:
    adapter = (folder / "adapter_config.json").is_file()
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds no config.json, so it is no model folder",
            hint="It is a LoRA adapter: name its base model, or the merged model."
            if adapter
            else "A model folder holds config.json, tokenizer.json and *.safetensors.",
        )
    if adapter:
        raise ModelError(
            f"{folder} holds a model and, by adapter_config.json, a LoRA adapter, so it isn't clear what is meant",
            hint="transformers would train on with the adapter, and exports would leave it out. Move the adapter's "
            "files to a folder of their own; lora.adapter_name_or_path goes on with it.",
        )
    require_safetensors(folder)
    return folder


def _download(model_name: str, revision: str | None, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = _SMALL_FILES + (_WEIGHTS if weights else [])
    try:
        return Path(snapshot_download(model_name, revision=revision, allow_patterns=patterns))
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"The model {model_name} is not in the local cache, and the Hub can't be reached",
            hint="Check the network (and HF_HUB_OFFLINE), or give a local folder as model.model_name.",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"The Hub model {model_name}{f' at revision {revision}' if revision else ''} can't be fetched: {reason}",
            hint="Check the name and revision; for a gated or private model set HF_TOKEN.",
        ) from error
