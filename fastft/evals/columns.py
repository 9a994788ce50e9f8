"""Which models are evaluated: a column for each target, and one for the base that it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastft.errors import ModelError, RecipeError
from fastft.files import at_home
from fastft.model_loading import require_readable
from fastft.targets import ModelTarget, find_target

if TYPE_CHECKING:
    from fastft.run import Run

Role = Literal["base", "tuned", "model"]
_UNKNOWN_ROOM = 1 << 20  # tokens, where a model doesn't say how many positions it has


@dataclass(frozen=True, slots=True)
class Column:
    """One model: `gguf`, or `folder` with or without an `adapter`. `tokenizer` is the folder that renders for it."""

    name: str
    role: Role
    target: str
    tokenizer: Path
    gguf: Path | None = None
    folder: Path | None = None
    adapter: Path | None = None

    def room(self) -> int:
        """Positions that the model has, in tokens."""
        if self.gguf is not None:
            from fastft.llamacpp import GGUFModel

            with GGUFModel(self.gguf) as model:
                kind = model.metadata.get("general.architecture", "")
                return int(model.metadata.get(f"{kind}.context_length", _UNKNOWN_ROOM))
        from fastft.model_files import read_text_config

        assert self.folder is not None
        return read_text_config(self.folder).get("max_position_embeddings") or _UNKNOWN_ROOM


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns in the order they are evaluated and shown, the first run among the targets, and remarks."""

    columns: list[Column]
    run: Run | None
    notes: list[str]


def columns_of(names: Sequence[Path | str], *, base: bool, tokenizer: Path | None = None) -> Columns:
    """A column for each name, before it one for its base if `base`; `tokenizer` is for GGUF files outside a run.

    Raises ModelError for a name that stands for no model, a run that isn't finished, or a GGUF without a tokenizer;
    RecipeError for no name at all, or one given twice.
    """
    if not names:
        raise RecipeError("There is no model to evaluate", hint="Name a run, a model folder or a GGUF file.")
    targets = [find_target(name) for name in names]
    labels = _labels(targets)
    found = Columns([], next((t.run for t in targets if t.run is not None), None), [])
    for target, label in zip(targets, labels, strict=True):
        own = _column(target, label, tokenizer)
        if base and (under := _base(target, own, found.notes)):
            _add_base(found.columns, under)
        found.columns.append(own)
    return found


def _labels(targets: Sequence[ModelTarget]) -> list[str]:
    """What heads each column: the last part of its path, or more of it where two would be called the same."""
    paths = [at_home(target.name) for target in targets]
    if len({str(path.absolute()) for path in paths}) < len(paths):
        raise RecipeError("A model is named twice", hint="Name each once.")
    if len(targets) == 1 and targets[0].run is not None and _is_trained(targets[0]):
        return ["tuned"]
    for parts in range(1, 8):
        labels = ["/".join(path.parts[-parts:]) for path in paths]
        if len({*labels, "base"}) == len(labels) + 1:
            return labels
    return [target.name for target in targets]


def _is_trained(target: ModelTarget) -> bool:
    """Whether it is what training made itself, and no export of it."""
    assert target.run is not None
    return target.gguf is None and (target.adapter is not None or target.folder == target.run.model_dir)


def _column(target: ModelTarget, label: str, tokenizer: Path | None) -> Column:
    role: Role = "tuned" if target.run is not None or target.adapter is not None else "model"
    if target.gguf is not None:
        return Column(label, role, target.name, _gguf_tokenizer(target, tokenizer), gguf=target.gguf)
    folder = target.tokenizer_folder
    assert folder is not None
    assert target.folder is not None
    require_readable(target.folder, target.adapter)  # all of them before the first is evaluated, which may take long
    return Column(label, role, target.name, folder, folder=target.folder, adapter=target.adapter)


def _gguf_tokenizer(target: ModelTarget, tokenizer: Path | None) -> Path:
    """The run's own, the one that was named, or one that lies beside the file."""
    assert target.gguf is not None
    run = target.run
    around = [run.adapter, run.model_dir] if run is not None else []
    for folder in [*([tokenizer] if tokenizer else []), *around, target.gguf.parent]:
        if (folder / "tokenizer_config.json").is_file() and (folder / "tokenizer.json").is_file():
            return folder
        if folder == tokenizer:
            raise ModelError(
                f"--tokenizer {tokenizer} holds no tokenizer.json and tokenizer_config.json",
                hint="Name the folder of the model that the GGUF was made of.",
            )
    raise ModelError(
        f"{target.gguf} lies in no run, so there is no tokenizer to render the data with as in training",
        hint="Name the folder of the model it was made of: --tokenizer FOLDER.",
    )


def _base(target: ModelTarget, own: Column, notes: list[str]) -> Column | None:
    """The column of what the target was made of; None for a model of its own. Its prompts are the target's own."""
    if target.adapter is not None:
        return Column("base", "base", str(target.folder), own.tokenizer, folder=target.folder)
    if target.run is None:
        return None
    from fastft.exporters.base_model import base_of_run

    try:
        folder = base_of_run(target.run.manifest()).folder
    except ModelError as error:
        notes.append(f"no column for the base of {own.name}: {error.message}")
        return None
    return Column("base", "base", str(folder), own.tokenizer, folder=folder)


def _add_base(columns: list[Column], under: Column) -> None:
    """Unless it is there already. Bases with other files or prompts are numbered."""
    from fastft.data.tokenizer import ChatTokenizer

    bases = [column for column in columns if column.role == "base"]
    fingerprint = ChatTokenizer.load(under.tokenizer).fingerprint
    for other in bases:
        if other.folder == under.folder and ChatTokenizer.load(other.tokenizer).fingerprint == fingerprint:
            return
    columns.append(replace(under, name=f"base {len(bases) + 1}") if bases else under)
