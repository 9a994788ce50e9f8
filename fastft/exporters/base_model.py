"""The base model an adapter is merged into: always in 16 bits, though training may have read it in 4."""

from __future__ import annotations

import functools
import importlib.util
import json
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field
from typing_extensions import TypedDict

from fastft.base_identity import BaseIdentity, identify_folder
from fastft.errors import ExportError, ModelError
from fastft.exporters.weights import SafetensorsFolder, TensorSpec
from fastft.model_files import read_config, resolve_model
from fastft.reading import require_shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

_QUANT_STATE = ".quant_state.bitsandbytes__"
_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_GET_AGAIN = "Get the model's weights again from where they came from."


class _State(TypedDict):
    """How a tensor was quantised, as bitsandbytes keeps it beside the tensor."""

    dtype: Literal["bfloat16", "float16", "float32"]
    shape: list[Annotated[int, Field(ge=0)]]


@dataclass(frozen=True, slots=True)
class BaseModel:
    """Where the base lies, and in a word how it got 16 bits: for export.json."""

    folder: Path
    name: str
    note: str


class Weights(Protocol):
    """Tensors of a base model by name, in floating point."""

    @property
    def specs(self) -> dict[str, TensorSpec]: ...

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor: ...


def base_of_run(manifest: Mapping[str, Any]) -> BaseModel:
    """The 16-bit base of a finished run. Raises ModelError if it is gone, or not the one that was trained on."""
    model = manifest["model"]
    return resolve_base(model["model_name"], model["revision"], BaseIdentity(**model["base"]))


def resolve_base(model_name: str, revision: str | None = None, trained_on: BaseIdentity | None = None) -> BaseModel:
    """The 16-bit weights of `model_name`. A bitsandbytes 4-bit repository is replaced by the one it was made from.

    Where that can't be had, its 4-bit weights are dequantised, and the note says so. Raises ModelError if there is
    neither, or if it is `trained_on` with other files; ExportError if the model is quantised in another way.
    """
    base = _find_base(model_name, revision)
    if trained_on is not None and trained_on.model_name == base.name:
        trained_on.require_same(identify_folder(base.name, base.folder))
    return base


def _find_base(model_name: str, revision: str | None) -> BaseModel:
    folder = resolve_model(model_name, revision, weights=False)
    quantization = _quantization(folder)
    if quantization is None:
        return BaseModel(resolve_model(model_name, revision, weights=True), model_name, "16-bit weights")
    if quantization != "bitsandbytes 4-bit":
        raise ExportError(
            f"The base model {model_name} is quantised ({quantization}); an adapter can't be merged into it",
            hint="Give the name of the 16-bit model it was made from.",
        )
    original = sixteen_bit_name(model_name)
    if original is not None:
        try:
            return BaseModel(resolve_model(original, weights=True), original, f"16-bit original of {model_name}")
        except ModelError as error:
            reason = f"its 16-bit original {original} can't be had: {error.message}"
    else:
        reason = "no 16-bit original of it is known"
    folder = resolve_model(model_name, revision, weights=True)
    return BaseModel(folder, model_name, f"dequantised from 4 bits, because {reason}")


def sixteen_bit_name(model_name: str) -> str | None:
    """The 16-bit repository behind one of Unsloth's 4-bit ones, from Unsloth's own tables; unsloth is not imported.

    A plain 4-bit repository stands there as another form of the dynamic one, which has the 16-bit name.
    """
    to_float, to_int = _unsloth_tables()
    keys = (model_name, model_name.lower())
    names = [name for key in keys for name in (to_float.get(key), to_float.get(to_int.get(key, "")))]
    return next((name for name in names if name and name.lower() != model_name.lower()), None)


@functools.cache
def _unsloth_tables() -> tuple[dict[str, str], dict[str, str]]:
    package = importlib.util.find_spec("unsloth")
    if package is None or not package.submodule_search_locations:
        return {}, {}
    values = runpy.run_path(str(Path(package.submodule_search_locations[0]) / "models" / "mapper.py"))
    return values["INT_TO_FLOAT_MAPPER"], values["FLOAT_TO_INT_MAPPER"]


def _quantization(folder: Path) -> str | None:
    """What config.json says of quantisation: None, "bitsandbytes 4-bit" or the method's name."""
    config = read_config(folder).get("quantization_config")
    if not config:
        return None
    method = config.get("quant_method", "unknown method")
    return "bitsandbytes 4-bit" if method == "bitsandbytes" and config.get("load_in_4bit") else str(method)


def open_weights(folder: Path) -> Weights:
    """The weights in `folder`; those stored in bitsandbytes' 4 bits are dequantised as they are read."""
    stored = SafetensorsFolder.model(folder)
    quantized = [name for name in stored.specs if _QUANT_STATE in name]
    return FourBitWeights(stored) if quantized else stored


class FourBitWeights:
    """A bitsandbytes 4-bit checkpoint read as floating point: each packed weight with its state next to it."""

    def __init__(self, stored: SafetensorsFolder) -> None:
        self._stored = stored
        self._state_keys = {name.partition(_QUANT_STATE)[0]: name for name in stored.specs if _QUANT_STATE in name}
        self.quantized = tuple(self._state_keys)  # names of the tensors stored in 4 bits
        aside = tuple(f"{name}." for name in self._state_keys)
        self.specs = {name: self._spec(name) for name in stored.specs if not name.startswith(aside)}

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        """The tensor `name` or some of its rows; blocks of 4-bit values cross rows, so those are unpacked whole."""
        if name not in self._state_keys:
            return self._stored.read(name, rows)
        whole = self._unpacked(name)
        return whole if rows is None else whole[rows]

    def _unpacked(self, name: str) -> torch.Tensor:
        import torch
        from bitsandbytes.functional import QuantState, dequantize_4bit

        parts = {key: self._stored.read(key) for key in self._stored.specs if key.startswith(f"{name}.")}
        try:
            state = QuantState.from_dict(parts, device=torch.device("cpu"))
            return dequantize_4bit(self._stored.read(name), state)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
            raise ExportError(f"The 4-bit values of {name} can't be unpacked: {error}", hint=_GET_AGAIN) from error

    def _spec(self, name: str) -> TensorSpec:
        if name not in self._state_keys:
            return self._stored.specs[name]
        key = self._state_keys[name]
        try:
            state = json.loads(bytes(self._stored.read(key).tolist()))
        except (ValueError, TypeError, RecursionError) as error:
            raise ExportError(f"The tensor {key} is no state of 4-bit values: {error}", hint=_GET_AGAIN) from error
        require_shape(state, _State, f"The tensor {key}", ExportError, _GET_AGAIN)
        return TensorSpec(tuple(state["shape"]), _DTYPES[state["dtype"]])
