"""The training section: fields of the method's config in TRL, checked against the installed version and bounded."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from fastft.recipe.checks import fault, refuse_traps
from fastft.recipe.named_values import check_named, names_of
from fastft.recipe.owned import owned
from fastft.recipe.suggest import nearest
from fastft.recipe.trl_config import config_fields, reporting_integrations
from fastft.trainers import find_method

_SHARE = (Ge(0), Lt(1))
_POSITIVE = (Gt(0),)
_NOT_NEGATIVE = (Ge(0),)
_AT_LEAST_ONE = (Ge(1),)
_SEED = (Ge(0), Le(2**32 - 1))

# Bounds that the annotations don't tell. null stays allowed where the field has it.
_BOUNDS: Mapping[str, tuple[Any, ...]] = {
    "learning_rate": (Gt(0), Le(1)),
    "num_train_epochs": _POSITIVE,
    "per_device_train_batch_size": _AT_LEAST_ONE,
    "per_device_eval_batch_size": _AT_LEAST_ONE,
    "gradient_accumulation_steps": _AT_LEAST_ONE,
    "max_length": (Ge(8),),
    "warmup_steps": _NOT_NEGATIVE,
    "weight_decay": (Ge(0), Le(1)),
    "adam_beta1": _SHARE,
    "adam_beta2": _SHARE,
    "adam_epsilon": _POSITIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "label_smoothing_factor": _SHARE,
    "neftune_noise_alpha": _POSITIVE,
    "logging_steps": _POSITIVE,
    "eval_steps": _POSITIVE,
    "save_steps": _POSITIVE,
    "eval_delay": _NOT_NEGATIVE,
    "save_total_limit": _AT_LEAST_ONE,
    "eval_accumulation_steps": _AT_LEAST_ONE,
    "torch_empty_cache_steps": _AT_LEAST_ONE,
    "dataloader_num_workers": _NOT_NEGATIVE,
    "dataloader_prefetch_factor": _AT_LEAST_ONE,
    "dataset_num_proc": _AT_LEAST_ONE,
    "pad_to_multiple_of": _AT_LEAST_ONE,
    "router_aux_loss_coef": _NOT_NEGATIVE,
    "precompute_ref_batch_size": _AT_LEAST_ONE,
    "label_smoothing": (Ge(0), Lt(0.5)),
    "desirable_weight": _NOT_NEGATIVE,
    "undesirable_weight": _NOT_NEGATIVE,
    "cpo_alpha": _NOT_NEGATIVE,
    "simpo_gamma": _NOT_NEGATIVE,
    "ld_alpha": (Ge(0), Le(1)),
    "discopop_tau": _POSITIVE,
    "num_generations": _AT_LEAST_ONE,
    "num_generations_eval": _AT_LEAST_ONE,
    "max_completion_length": _AT_LEAST_ONE,
    "generation_batch_size": _AT_LEAST_ONE,
    "steps_per_generation": _AT_LEAST_ONE,
    "num_iterations": _AT_LEAST_ONE,
    "temperature": _POSITIVE,
    "top_p": (Gt(0), Le(1)),
    "top_k": _NOT_NEGATIVE,
    "repetition_penalty": _POSITIVE,
    "beta": _NOT_NEGATIVE,
    "epsilon": _NOT_NEGATIVE,
    "seed": _SEED,
    "data_seed": _SEED,
}
# Types narrower than declared. Without a max_length the model's max_seq_length holds, so null means nothing.
_TYPES: Mapping[str, Any] = {
    "max_length": int,
    "num_generations": int,
    "num_generations_eval": int,
    "max_completion_length": int,
    "include_num_input_tokens_seen": bool | Literal["all", "non_padding", "no"],
    "torch_compile_mode": Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None,
}
# What fastft takes beside TRL's fields, where the model doesn't write its answers itself.
_OWN_FIELDS: Mapping[str, FieldInfo] = {
    "batch": FieldInfo(
        annotation=Literal["auto"] | None,
        default=None,
        description="auto: fastft finds per_device_train_batch_size by some real steps before training, within the "
        "memory that is planned, and remembers it for this device and recipe; gradient_accumulation_steps follows, so "
        "that a step learns as much. null = by the model's size and the device.",
        json_schema_extra={"expected": "auto or null"},
    ),
}
# The packages of which one is needed, where a tracker's own name is none.
_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "azure_ml": ("azureml",),
    "flyte": ("flytekit",),
    "tensorboard": ("tensorboard", "tensorboardX"),
}


def check_training(values: Any, method: str) -> dict[str, Any]:
    """The section with every value coerced to its field's type. Raises ValidationError with all that is wrong."""
    if isinstance(values, Mapping):
        values = dict(values)
    else:
        raise fault(f"a mapping of {find_method(method).config[-1]}'s fields")
    checked: dict[str, Any] = {}
    errors: list[InitErrorDetails] = []
    for key, value in values.items():
        try:
            checked[key] = _check(key, value, method)
        except PydanticCustomError as error:
            errors.append(InitErrorDetails(type=error, loc=(key,), input=value))
        except ValidationError:
            errors.append(InitErrorDetails(type=fault(""), loc=(key,), input=value))
    if errors:
        raise ValidationError.from_exception_data("training", errors)
    return checked


@cache
def training_field(key: str, method: str) -> FieldInfo:
    """Type, bounds and help of one field. Raises KeyError if the method's config has none of that name."""
    if key in _own_fields(method):
        return _OWN_FIELDS[key]
    declared = config_fields(method)[key]
    kind, bounds = _TYPES.get(key, declared.annotation), _BOUNDS.get(key, ())
    bounded: Any = Annotated[kind, *bounds] if bounds else kind
    info = FieldInfo.from_annotation(bounded)
    info.default, info.description = declared.default, declared.help
    return info


def settable(method: str) -> tuple[str, ...]:
    """The keys a recipe may set: the fields of the method's config without those fastft sets itself, and our own."""
    return (*(key for key in config_fields(method) if key not in owned(method)), *_own_fields(method))


def fields_of_trl(training: Mapping[str, Any]) -> dict[str, Any]:
    """What of a recipe's training section goes into the method's config."""
    return {key: value for key, value in training.items() if key not in _OWN_FIELDS}


def _own_fields(method: str) -> tuple[str, ...]:
    return () if find_method(method).generates else tuple(_OWN_FIELDS)


def _check(key: str, value: Any, method: str) -> Any:
    if key in _own_fields(method):
        return _adapter(key, method).validate_python(value)
    if key not in config_fields(method):
        raise PydanticCustomError("extra_forbidden", "unknown key")
    if reason := owned(method).get(key):
        raise PydanticCustomError("owned", "{reason}", {"reason": reason})
    field = training_field(key, method)
    if key == "report_to":
        return _check_report_to(value)
    if key == "max_steps":
        return _check_max_steps(value, method)
    if names_of(method, key):
        return check_named(method, key, value)
    checked = _adapter(key, method).validate_python(refuse_traps(value, field.annotation))
    if key.endswith("_steps") and isinstance(checked, float) and checked >= 1:
        if not checked.is_integer():
            raise fault("a whole number of steps, or below 1 a share of all steps")
        return int(checked)
    return checked


@cache
def _adapter(key: str, method: str) -> TypeAdapter[Any]:
    field = training_field(key, method)
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))


def _check_max_steps(value: Any, method: str) -> int:
    checked = _adapter("max_steps", method).validate_python(refuse_traps(value, int))
    if checked == 0 or checked < -1:
        raise fault("a whole number of at least 1, or -1 for as many as num_train_epochs gives")
    return checked


def _check_report_to(value: Any) -> str | list[str]:
    """Names of installed trackers. transformers would refuse them only after the model is loaded."""
    names = value if isinstance(value, list) else [value]
    if names in ([None], [False], ["no"], ["none"], []):
        return "none"
    for name in names:
        _check_tracker(str(name))
    return value


def _check_tracker(name: str) -> None:
    known = reporting_integrations()
    if name not in (*known, "all"):
        near = nearest(name, [*known, "none", "all"])
        raise fault(f"none, all, or names of {', '.join(known)}", hint=f"Did you mean {near}?" if near else "")
    packages = _PACKAGES.get(name, (name,))
    if name != "all" and not any(map(importlib.util.find_spec, packages)):
        hint = f"Install it (`uv pip install {packages[0]}`) or write report_to: none"
        raise fault(f"an installed tracker; {packages[0]} is not", hint=hint)
