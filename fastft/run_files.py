"""The JSON files of a run, an export, an adapter and a model, read with the types their readers rely on.

Whoever reads one of them may hold it from elsewhere, or damaged: each reader here gives one clear error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from fastft.errors import ExportError, FastftError, ModelError, TrainingError
from fastft.files import write_json
from fastft.reading import read_json, read_json_lines, require_inside, require_shape

EXPORT = "export.json"
_PUT_BACK = (
    "Put the file back as training wrote it, or delete it and go on from the last checkpoint: fastft train {run} "
    "--resume. The adapter can still be exported: fastft export {run}/adapter."
)
_CONFIG_IS = "It is the model's configuration, a JSON file."
_VERIFY_AGAIN = "Verify it again: fastft verify {run}"
_EXPORT_AGAIN = "Make the export again: fastft export {run} --overwrite"


@with_config(ConfigDict(extra="forbid"))
class Base(TypedDict):
    """`BaseIdentity.as_dict`."""

    model_name: str
    commit: NotRequired[str | None]
    files: NotRequired[dict[str, str]]


class _Model(TypedDict):
    model_name: str
    revision: str | None
    base: Base


class _Data(TypedDict):
    max_length: NotRequired[int]


class Manifest(TypedDict):
    """manifest.json of a run."""

    model: _Model
    files: dict[str, str]
    method: NotRequired[str]
    data: NotRequired[_Data]
    lineage: NotRequired[list[dict[str, Any]]]


class Start(TypedDict):
    """start.json of a run. `recipe` is YAML, without output_dir; `sha256` is that of the rest."""

    arguments: dict[str, Any]
    base: Base
    reduced: NotRequired[Any]
    recipe: NotRequired[str]
    sha256: NotRequired[str]


class _MadeFrom(TypedDict):
    dtype: NotRequired[str]
    sha256: NotRequired[str]


class Export(TypedDict):
    """export.json."""

    made_from: _MadeFrom
    files: dict[str, str]
    format: NotRequired[str]
    quantization: NotRequired[str | None]


class AdapterConfig(TypedDict):
    """What fastft itself reads of PEFT's adapter_config.json."""

    base_model_name_or_path: NotRequired[str | None]
    revision: NotRequired[str | None]
    peft_type: NotRequired[str]
    task_type: NotRequired[str | None]
    r: NotRequired[int]
    lora_alpha: NotRequired[int | float]
    rank_pattern: NotRequired[dict[str, int] | None]
    alpha_pattern: NotRequired[dict[str, int | float] | None]
    use_rslora: NotRequired[bool | None]
    use_dora: NotRequired[bool | None]
    fan_in_fan_out: NotRequired[bool | None]


_Layers = Annotated[int, Field(gt=0, le=10_000)] | None  # each is made by itself, before any weight is looked at


class Config(TypedDict):
    """config.json of a model, or its part for the language model."""

    model_type: NotRequired[str | None]
    architectures: NotRequired[list[str] | None]
    text_config: NotRequired[dict[str, Any] | None]
    quantization_config: NotRequired[dict[str, Any] | None]
    max_position_embeddings: NotRequired[int | None]
    num_hidden_layers: NotRequired[_Layers]
    num_layers: NotRequired[_Layers]
    n_layers: NotRequired[_Layers]
    n_layer: NotRequired[_Layers]


class _Turn(TypedDict):
    role: str
    content: str
    tool_calls: NotRequired[list[dict[str, Any]] | None]


class HeldOut(TypedDict):
    """A line of heldout.jsonl."""

    text: NotRequired[str | None]
    messages: NotRequired[list[_Turn] | None]
    rejected: NotRequired[list[_Turn] | None]
    tools: NotRequired[list[dict[str, Any]] | None]


class Generation(TypedDict):
    """generation_config.json of a model."""

    eos_token_id: NotRequired[int | list[int] | None]
    pad_token_id: NotRequired[int | None]


class _Examples(TypedDict):
    examples_sha256: str
    fingerprint: str
    template_sha256: NotRequired[str]
    sources: NotRequired[dict[str, int]]


class _Passed(TypedDict):
    passed: bool


class _Noted(TypedDict):
    note: NotRequired[str]


class _Notes(TypedDict):
    checks: NotRequired[list[_Noted]]


class _Measures(TypedDict):
    loss: NotRequired[float | None]
    perplexity: NotRequired[float | None]
    exact_share: NotRequired[float | None]


class _BeforeAndAfter(TypedDict):
    before: _Measures
    after: _Measures


class _CardFacts(TypedDict):
    """What a model card tells of manifest.json."""

    evaluation: _BeforeAndAfter
    data: dict[str, Any]
    versions: NotRequired[dict[str, str]]


class _Check(TypedDict):
    name: str
    value: str
    threshold: str
    passed: bool


class _Proof(TypedDict):
    """verification.json."""

    passed: bool
    reference: str
    checks: list[_Check]


class _Index(TypedDict):
    weight_map: dict[str, str]


def read_manifest(path: Path) -> dict[str, Any]:
    """manifest.json. Raises ModelError."""
    hint = _PUT_BACK.format(run=path.parent)
    manifest: dict[str, Any] = read_json(path, ModelError, hint, shape=Manifest)
    require_inside([*manifest["files"], *manifest["model"]["base"].get("files", {})], path, ModelError, hint)
    return manifest


def read_start(path: Path) -> dict[str, Any]:
    """start.json. Raises TrainingError, also where it isn't as training wrote it."""
    hint = "Put it back as training wrote it, or start a new run: --new."
    start: dict[str, Any] = read_json(path, TrainingError, hint, shape=Start)
    if start.pop("sha256", None) not in (None, _digest(start)):
        raise TrainingError(f"{path} was changed since training wrote it", hint=hint)
    return start


def write_start(path: Path, start: Mapping[str, Any]) -> None:
    """Write start.json, by which a run goes on: what the steps so far were taken with."""
    write_json(path, {**start, "sha256": _digest(start)})


def _digest(start: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(start))  # as it will be read: every key is text, which decides their order
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def read_audit(path: Path) -> dict[str, Any]:
    """audit.json. Raises TrainingError."""
    hint = "Put it back as training wrote it, or start a new run: --new."
    return read_json(path, TrainingError, hint, shape=_Examples)


def read_heldout(path: Path | None) -> list[dict[str, Any]]:
    """The rows of heldout.jsonl; none without the file. Raises ModelError."""
    if path is None or not path.is_file():
        return []
    return read_json_lines(path, ModelError, "Put it back as training wrote it, or leave it away.", shape=HeldOut)


def read_export(folder: Path) -> dict[str, Any]:
    """export.json of the export in `folder`. Raises ExportError."""
    path = folder / EXPORT
    hint = _EXPORT_AGAIN.format(run=folder.parent.parent)
    export: dict[str, Any] = read_json(path, ExportError, hint, shape=Export)
    require_inside(export["files"], path, ExportError, hint)
    return export


def has_passed(export: Path) -> bool:
    """Whether the export in the folder was verified, and was what was trained. Raises ExportError."""
    path = export / "verification.json"
    return path.is_file() and read_json(path, ExportError, _verify_again(path), shape=_Passed)["passed"]


def proof_notes(export: Path) -> list[str]:
    """What the verification of the export found worth knowing, beside its verdict. Raises ExportError."""
    path = export / "verification.json"
    proof = read_json(path, ExportError, _verify_again(path), shape=_Notes)
    return [note for check in proof.get("checks", []) if (note := check.get("note"))]


def read_proof(path: Path) -> dict[str, Any]:
    """verification.json of an export. Raises ExportError."""
    return read_json(path, ExportError, _verify_again(path), shape=_Proof)


def read_card_facts(path: Path) -> dict[str, Any]:
    """manifest.json of a run, for a model card. Raises ExportError."""
    return read_json(path, ExportError, "Put the file back as training wrote it.", shape=_CardFacts)


def read_adapter_config(folder: Path, error: type[FastftError] = ModelError) -> dict[str, Any]:
    """adapter_config.json of a PEFT adapter. Raises `error`."""
    hint = "It is the settings of a LoRA adapter, which PEFT's save_pretrained writes."
    return read_json(folder / "adapter_config.json", error, hint, shape=AdapterConfig)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises ModelError."""
    return read_json(folder / "config.json", ModelError, _CONFIG_IS, shape=Config)


def text_config(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The language model's part of `config`: models of text and images keep it in `text_config`. Raises ModelError."""
    part = config.get("text_config") or config
    return require_shape(part, Config, folder / "config.json", ModelError, _CONFIG_IS)


def read_generation(path: Path) -> dict[str, Any]:
    """generation_config.json, or a config.json that says the same. Raises ModelError."""
    return read_json(path, ModelError, "It is a file of the model's; get it again.", shape=Generation)


def read_weight_index(path: Path, error: type[FastftError]) -> dict[str, str]:
    """The file of each tensor, as model.safetensors.index.json says; all are safetensors and lie beside it.

    Raises `error`: transformers would read a file by another name as a pickle.
    """
    hint = "It lists the weight files of a model; get it again from where the model came from."
    found: dict[str, str] = read_json(path, error, hint, shape=_Index)["weight_map"]
    require_inside(found.values(), path, error, hint)
    if other := sorted(name for name in set(found.values()) if not name.endswith(".safetensors")):
        raise error(f"{path} names {other[0]!r}: weights are read from *.safetensors alone", hint=hint)
    return found


def _verify_again(proof: Path) -> str:
    return _VERIFY_AGAIN.format(run=proof.parents[2])
