"""What a name given to chat, eval, serve or export stands for: a run, an adapter, a model folder or a GGUF file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastft.errors import ModelError, RecipeError
from fastft.exporters.classifier import holds_classifier
from fastft.files import at_home
from fastft.model_files import TINY, resolve_model
from fastft.reading import read_json
from fastft.run_files import read_adapter_config

if TYPE_CHECKING:
    from fastft.run import Run


@dataclass(frozen=True, slots=True)
class ModelTarget:
    """Either `gguf`, a file, or `folder`, a model in transformers' format, with or without an adapter on it.

    `run` is set where the target is a run directory, or an export that lies in one.
    """

    name: str
    gguf: Path | None = None
    folder: Path | None = None
    adapter: Path | None = None
    run: Run | None = None

    @property
    def tokenizer_folder(self) -> Path | None:
        """Where tokenizer and template lie: with the adapter if it has them, otherwise with the model; None for GGUF.

        An adapter carries what was trained with.
        """
        if self.adapter is not None and (self.adapter / "tokenizer_config.json").is_file():
            return self.adapter
        return self.folder


def find_target(target: Path | str) -> ModelTarget:
    """The model that lies at `target`, or the Hub model of that name.

    Raises ModelError if there is none, if a run isn't finished, if an adapter's base is gone or another, or if it is a
    reward model.
    """
    found = _find(target)
    folder = found.adapter or found.folder
    if folder is not None and holds_classifier(folder):
        raise ModelError(
            f"{target} is a reward model, which gives scores and writes no text",
            hint="fastft.reward_model.RewardModel scores conversations with it; method grpo and rloo learn from it.",
        )
    return found


def _find(target: Path | str) -> ModelTarget:
    if str(target) == TINY:
        return ModelTarget(TINY, folder=resolve_model(TINY, weights=True))
    path = at_home(target)
    if not path.exists() and _is_hub_id(str(target)) and not path.parent.is_dir():
        return _on_hub(str(target))
    _refuse_bare_lora(path)
    if path.is_file():
        _refuse_recipe(path)
        return ModelTarget(str(path), gguf=path, run=_run_around(path.parent))
    if (path / "recipe.yaml").is_file():
        return _of_run(path)
    if (path / "adapter_config.json").is_file():
        return _of_adapter(path)
    if (path / "config.json").is_file():
        return ModelTarget(str(path), folder=path, run=_run_around(path))
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return ModelTarget(str(path), gguf=files[0], run=_run_around(path))
    raise _nothing_there(path, files)


def _on_hub(name: str) -> ModelTarget:
    try:
        return ModelTarget(name, folder=resolve_model(name, weights=True))
    except ModelError as error:
        raise ModelError(
            f"There is nothing at {name}, and no Hub model of that name: {error.message}",
            hint="Name a run directory, an adapter or model folder, or a .gguf file; or check the network.",
        ) from error


def _refuse_bare_lora(path: Path) -> None:
    manifest = (path if path.is_dir() else path.parent) / "export.json"
    if manifest.is_file() and read_json(manifest, ModelError).get("format") == "gguf_lora":
        raise ModelError(
            f"{path} is a LoRA for llama.cpp, which is no model without its base",
            hint="Put it on a GGUF of the base: llama-server -m BASE.gguf --lora adapter-f32.gguf. Here, name the run.",
        )


def _refuse_recipe(path: Path) -> None:
    if path.suffix not in (".yaml", ".yml"):
        return
    made = _output_of(path)
    raise ModelError(
        f"{path} is a recipe, which is no model: what it trains is a run directory, and that is wanted here",
        hint=f"Name the run: {made}" if made else f"Train it first: fastft train {path}",
    )


def _output_of(recipe: Path) -> Path | None:
    """The run directory of a recipe, which may have faults by now, if it is there."""
    from fastft.recipe.document import read_file
    from fastft.run import Run

    try:
        named = read_file(recipe).tree.get("output_dir") or f"runs/{recipe.stem}"
    except RecipeError:
        return None
    run = at_home(str(named))
    return run if Run(run).recipe_path.is_file() else None


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith((".gguf", "/"))


def _run_around(folder: Path) -> Run | None:
    """The run that has `folder` among its exports, or as its model."""
    from fastft.run import Run

    above = folder.absolute().parent
    directory = above.parent if above.name == "exports" else above
    return Run(directory) if (directory / "manifest.json").is_file() else None


def _of_run(folder: Path) -> ModelTarget:
    from fastft.exporters.base_model import base_of_run
    from fastft.exporters.source import trained_folder
    from fastft.run import Run

    run = Run.open(folder)
    manifest = run.trained_manifest()
    trained = trained_folder(run)
    if trained == run.model_dir:
        return ModelTarget(str(folder), folder=trained, run=run)
    return ModelTarget(str(folder), folder=base_of_run(manifest).folder, adapter=trained, run=run)


def _of_adapter(folder: Path) -> ModelTarget:
    from fastft.exporters.base_model import resolve_base

    config = read_adapter_config(folder)
    if (named := config.get("base_model_name_or_path")) is None:
        raise ModelError(f"{folder / 'adapter_config.json'} names no base model", hint="Name it there.")
    base = resolve_base(named, config.get("revision"))
    return ModelTarget(str(folder), folder=base.folder, adapter=folder, run=_run_around(folder))


def _nothing_there(target: Path, files: Sequence[Path]) -> ModelError:
    if files:
        names = ", ".join(path.name for path in files)
        return ModelError(f"{target} holds {len(files)} GGUF files: {names}", hint="Name one of them.")
    if not target.exists():
        return ModelError(
            f"There is nothing at {target}",
            hint="Name a run directory, an adapter or model folder, or a .gguf file.",
        )
    if (target / "export.json").is_file():
        return ModelError(
            f"The export {target} has lost its model file",
            hint=f"Make it again: fastft export {target.parent.parent} --overwrite",
        )
    return ModelError(
        f"{target} is neither a run, an adapter, a model folder nor a GGUF file",
        hint="Those hold recipe.yaml, adapter_config.json, config.json or one *.gguf file.",
    )
