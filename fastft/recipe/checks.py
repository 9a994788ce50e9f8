"""Validators shared by the sections: what pydantic's lax mode would let through, and values of several kinds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from fastft.recipe.describe import choices, expectation, flatten, shown
from fastft.recipe.suggest import listed, nearest

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
# Initialisations of a LoRA by PEFT's names, beside true and pissa_niter_N; and those that are refused, each with why.
START = ("gaussian", "orthogonal", "pissa", "olora")
_NO_START: Mapping[str, str] = {
    "loftq": "LoftQ trains on a quantised copy of the base, and what lies between the two is no low-rank update: "
    "the adapter would fit no model on disk.",
    "eva": "EVA has to watch the data go through the model, which Unsloth's fused LoRA layers don't let it.",
    "corda": "CorDA needs a pass over data before the LoRA is made, which Unsloth has no place for.",
    "lora_ga": "LoRA-GA needs gradients before the LoRA is made, which Unsloth has no place for.",
    "mica": "MiCA trains one matrix of each pair only, and is not proven here.",
}
_SPLIT = re.compile(r"[\w.-]+(\[[\d:%]*\])?")


def fault(expected: str, *, found: str = "", hint: str = "") -> PydanticCustomError:
    """An error whose parts go into a Fault as they are. "" keeps what the schema says of the field."""
    return PydanticCustomError("recipe", "{expected}", {"expected": expected, "found": found, "hint": hint})


def refuse_traps(value: Any, annotation: Any) -> Any:
    """Refuse or turn round what would be read as something else than was written.

    False for a choice that has "no" is the text "no" (YAML 1.1 readers, Python callers). A boolean is no number.
    "None" is Python's null, not YAML's.
    """
    kinds = tuple(flatten(annotation))
    if isinstance(value, bool) and bool not in kinds and not any(value is choice for choice in choices(annotation)):
        if value is False and "no" in choices(annotation):
            return "no"
        raise fault("", hint="Put a text that looks like a boolean in quotes." if str in kinds else "")
    if value == "None" and type(None) in kinds:
        raise fault("", hint="YAML's word for nothing is null.")
    return value


def one_or_many(value: Any) -> Any:
    """A single text as a list of one; a list without its repetitions."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return list(dict.fromkeys(value))
    return value


def check_eval_split(value: Any) -> float | int | str | None:
    """A share in (0, 1), a count of at least 1, or the text of a file or split name."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value) if re.search("[.eE]", value) else int(value)
    if value is None or (isinstance(value, str) and value and "%" not in value):
        return value
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?\s*%", value):
        raise fault("", hint=f"A share is written as a fraction: {float(value.rstrip(' %')) / 100:g}.")
    if isinstance(value, str) and _SPLIT.fullmatch(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, float) and 0 < value < 1:
        return value
    number = isinstance(value, (int, float))  # else the hint would be to quote it, and no file or split is called so
    raise fault("", hint="For example 0.05 for 5 % of the rows, or 100 for so many rows" if number else "")


def check_target_modules(value: Any) -> Any:
    """auto, all-linear, a list, or a regular expression over whole module names.

    A text in which nothing stands for several names is most likely a word misspelt or a list written as one text.
    """
    if not isinstance(value, str) or value in ("auto", "all-linear"):
        return value
    if not re.search(r"[*+?|^$\\(]", value):
        near = nearest(value, ("auto", "all-linear"), cutoff=0.7)
        parts = [part for part in re.split(r"[,\s]+", value.strip("[] ")) if part]
        raise fault("", hint=f"Did you mean {near}?" if near else f"A list of names is written [{', '.join(parts)}].")
    check_pattern(value)
    return value


def check_pattern(value: str) -> None:
    """Raises a fault that says where a regular expression breaks off."""
    try:
        re.compile(value)
    except re.error as error:
        raise fault("a regular expression", hint=f"Python's re can't read it: {error}.") from error


def check_init_lora_weights(value: Any) -> Any:
    """PEFT's names of what can be made right; of the others, why not."""
    if value is True or value in START or (isinstance(value, str) and re.fullmatch(r"pissa_niter_\d+", value)):
        return value
    if value is False:
        raise fault("", hint="false makes both matrices random, so that training starts from another model.")
    name = value.partition("_niter_")[0] if isinstance(value, str) else ""
    near = nearest(str(value), START)
    raise fault("", hint=_NO_START.get(name) or (f"Did you mean {near}?" if near else ""))


def check_trust(value: Any) -> Any:
    """False, or the name and revision of the code that may run: a commit, or the sha256 of a folder's Python files."""
    if value is False or (isinstance(value, str) and re.fullmatch(r"\S+@([0-9a-f]{40}|[0-9a-f]{64})", value)):
        return value
    hint = "It is said what may run: leave it out, and where the model needs code of its own, check tells its revision"
    raise fault("", hint=hint)


def check_columns(value: Any) -> Any:
    """Canonical column name -> the file's column."""
    if isinstance(value, Mapping) and all(isinstance(column, str) and column for column in value.values()):
        return dict(value)
    raise fault("")


def check_roles(value: Any) -> Any:
    """Role -> the set's own names of it; one name may stand without a list."""
    if not isinstance(value, Mapping) or value.keys() - {"system", "user", "assistant", "tool"}:
        raise fault("")
    named = {role: (names,) if isinstance(names, str) else tuple(names or ()) for role, names in value.items()}
    if not all(names and all(isinstance(name, str) and name for name in names) for names in named.values()):
        raise fault("")
    names = [name for given in named.values() for name in given]
    if twice := [name for name in names if names.count(name) > 1]:
        raise fault("", hint=f"{twice[0]} is named for two roles.")
    return named


def check_data_path(value: Any, entry: type[BaseModel]) -> Any:
    """A path, or the parts of a mixture as `entry`s. All that is wrong in a mixture is told, each at its place."""
    if isinstance(value, str) and value:
        return value
    if not isinstance(value, (list, tuple)) or not value:
        raise fault("", hint=_wrap(value, entry))
    parts: list[BaseModel] = []
    wrong: list[InitErrorDetails] = []
    for index, item in enumerate(value):
        try:
            parts.append(_part(item, entry))
        except ValidationError as error:
            wrong += [_located(detail, index, entry) for detail in error.errors(include_url=False)]
        except PydanticCustomError as error:
            wrong.append(InitErrorDetails(type=error, loc=(index,), input=item))
    if wrong:
        raise ValidationError.from_exception_data("data.path", wrong)
    return tuple(parts)


def _wrap(value: Any, entry: type[BaseModel]) -> str:
    known = isinstance(value, Mapping) and value and all(key in entry.model_fields for key in value)
    return "A mapping is one entry of a list: begin it with a hyphen" if known else ""


def _part(item: Any, entry: type[BaseModel]) -> BaseModel:
    if isinstance(item, entry):
        return item
    if isinstance(item, str) and item:
        item = {"path": item}
    if not isinstance(item, Mapping):
        hint = "For example {path: chats.jsonl, fraction: 0.5}"
        raise fault("a path, or a mapping with a path", hint=hint)
    made = entry.model_validate(dict(item))
    chosen = [key for key in ("fraction", "count", "weight") if getattr(made, key) is not None]
    if len(chosen) > 1:
        raise fault("one of fraction, count and weight", found=f"found {' and '.join(chosen)}")
    return made


def _located(detail: ErrorDetails, index: int, entry: type[BaseModel]) -> InitErrorDetails:
    """What pydantic refused in an entry, in a recipe's words and at its place in the list."""
    key, value = str(detail["loc"][0]) if detail["loc"] else "", detail["input"]
    loc = (index, *detail["loc"][:1])
    if detail["type"] == "extra_forbidden":
        near = nearest(key, entry.model_fields)
        hint = f"Did you mean {near}?" if near else f"An entry takes {listed(entry.model_fields)}"
        error = fault("a key of an entry", found="unknown key", hint=hint)
    elif detail["type"] == "missing":
        error, loc = fault("a path in each entry", found=f"an entry without {key}"), (index,)
    else:
        context = detail.get("ctx", {}) if detail["type"] == "recipe" else {}
        expected = context.get("expected") or (expectation(entry.model_fields[key]) if key else "an entry")
        error = fault(expected, found=shown(value), hint=context.get("hint") or _entry_hint(entry, key, value))
    return InitErrorDetails(type=error, loc=loc, input=value)


def _entry_hint(entry: type[BaseModel], key: str, value: Any) -> str:
    if key in ("fraction", "count", "weight"):
        return "fraction is a share of the rows, count a number of them, weight how often they are seen"
    words = choices(entry.model_fields[key].annotation) if key else ()
    near = nearest(value, words, cutoff=0.5) if isinstance(value, str) else ""
    return f"Did you mean {near}?" if near else ""
