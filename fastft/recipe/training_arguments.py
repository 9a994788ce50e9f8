"""The training section: fields of TRL's SFTConfig, checked against the installed version, bounded, and owned."""

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
from fastft.recipe.owned import OWNED
from fastft.recipe.sft_config import reporting_integrations, sft_config_fields
from fastft.recipe.suggest import nearest

Number = int | float
AtLeastOne = Annotated[int, Ge(1)]
Share = Annotated[Number, Ge(0), Lt(1)]
Positive = Annotated[Number, Gt(0)]
NotNegative = Annotated[Number, Ge(0)]
Steps = Annotated[Number, Gt(0)]  # whole steps, or below 1 a share of all steps
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]

# Narrower than SFTConfig's own annotations, which take any number.
_NARROWED: Mapping[str, Any] = {
    "learning_rate": Annotated[Number, Gt(0), Le(1)],
    "num_train_epochs": Positive,
    "per_device_train_batch_size": AtLeastOne,
    "per_device_eval_batch_size": AtLeastOne,
    "gradient_accumulation_steps": AtLeastOne,
    "max_length": Annotated[int, Ge(8)],
    "warmup_steps": NotNegative,
    "weight_decay": Annotated[Number, Ge(0), Le(1)],
    "adam_beta1": Share,
    "adam_beta2": Share,
    "adam_epsilon": Positive,
    "max_grad_norm": NotNegative,
    "label_smoothing_factor": Share,
    "neftune_noise_alpha": Positive | None,
    "logging_steps": Steps,
    "eval_steps": Steps | None,
    "save_steps": Steps,
    "eval_delay": NotNegative,
    "save_total_limit": AtLeastOne | None,
    "eval_accumulation_steps": AtLeastOne | None,
    "torch_empty_cache_steps": AtLeastOne | None,
    "dataloader_num_workers": Annotated[int, Ge(0)],
    "dataloader_prefetch_factor": AtLeastOne | None,
    "dataset_num_proc": AtLeastOne | None,
    "pad_to_multiple_of": AtLeastOne | None,
    "router_aux_loss_coef": NotNegative | None,
    "seed": Seed,
    "data_seed": Seed | None,
    "include_num_input_tokens_seen": bool | Literal["all", "non_padding", "no"],
    "torch_compile_mode": Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None,
}
# What an integration of transformers needs to be installed, where the package has another name.
_PACKAGES = {"azure_ml": "azureml", "flyte": "flytekit", "kubeflow": "kubeflow"}


def check_training(values: Any) -> dict[str, Any]:
    """The section with every value coerced to its field's type. Raises ValidationError with all that is wrong."""
    if isinstance(values, Mapping):
        values = dict(values)
    else:
        raise fault("a mapping of SFTConfig's fields")
    checked: dict[str, Any] = {}
    errors: list[InitErrorDetails] = []
    for key, value in values.items():
        try:
            checked[key] = _check(key, value)
        except PydanticCustomError as error:
            errors.append(InitErrorDetails(type=error, loc=(key,), input=value))
        except ValidationError:
            errors.append(InitErrorDetails(type=fault(""), loc=(key,), input=value))
    if errors:
        raise ValidationError.from_exception_data("training", errors)
    return checked


@cache
def training_field(key: str) -> FieldInfo:
    """Type, bounds and help of one field. Raises KeyError if the installed SFTConfig has none of that name."""
    declared = sft_config_fields()[key]
    info = FieldInfo.from_annotation(_NARROWED.get(key, declared.annotation))
    info.default, info.description = declared.default, declared.help
    return info


def settable() -> tuple[str, ...]:
    """The keys a recipe may set: SFTConfig's fields without those fastft sets itself."""
    return tuple(key for key in sft_config_fields() if key not in OWNED)


def _check(key: str, value: Any) -> Any:
    if key not in sft_config_fields():
        raise PydanticCustomError("extra_forbidden", "unknown key")
    if key in OWNED:
        raise PydanticCustomError("owned", "{reason}", {"reason": OWNED[key]})
    field = training_field(key)
    if key == "report_to":
        return _check_report_to(value)
    if key == "max_steps":
        return _check_max_steps(value)
    checked = _adapter(key).validate_python(refuse_traps(value, field.annotation))
    if key.endswith("_steps") and isinstance(checked, float) and checked >= 1:
        if not checked.is_integer():
            raise fault("a whole number of steps, or below 1 a share of all steps")
        return int(checked)
    return checked


@cache
def _adapter(key: str) -> TypeAdapter[Any]:
    field = training_field(key)
    annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))


def _check_max_steps(value: Any) -> int:
    checked = _adapter("max_steps").validate_python(refuse_traps(value, int))
    if checked == 0 or checked < -1:
        raise fault("a whole number of at least 1, or -1 for as many as num_train_epochs gives")
    return checked


def _check_report_to(value: Any) -> str | list[str]:
    """Names of installed trackers. transformers would refuse them only after the model is loaded."""
    names = value if isinstance(value, list) else [value]
    if names in ([None], [False], ["no"], ["none"], []):
        return "none"
    known = (*reporting_integrations(), "all")
    for name in names:
        if name not in known:
            near = nearest(str(name), [*known, "none"])
            raise fault(f"none or names of {', '.join(known)}", hint=f"Did you mean {near}?" if near else "")
        package = _PACKAGES.get(name, name)
        if name == "tensorboard" and importlib.util.find_spec("tensorboardX"):
            continue
        if name != "all" and importlib.util.find_spec(package) is None:
            raise fault(
                f"an installed tracker; {package} is not",
                hint=f"Install it (`uv pip install {package}`) or write report_to: none.",
            )
    return value
