"""Options of which TRL says only in prose what names they take: the names its trainer compares them with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from fastft.recipe.checks import fault
from fastft.recipe.foreign_values import FOREIGN_VALUES
from fastft.recipe.suggest import nearest
from fastft.recipe.trl_config import source_of

# method and field -> the trainer's file, what is compared there, and whether several names may be combined
_COMPARED: Mapping[tuple[str, str], tuple[str, str, bool]] = {
    ("dpo", "loss_type"): ("trainer/dpo_trainer.py", "loss_type", True),
    ("dpo", "f_divergence_type"): ("trainer/dpo_trainer.py", "self.f_divergence_type", False),
}


@cache
def names_of(method: str, field: str) -> tuple[str, ...]:
    """The names a field of a method's config takes, in the trainer's order; () where its type says all there is."""
    if (method, field) not in _COMPARED:
        return ()
    file, variable, _ = _COMPARED[method, field]
    found = re.findall(rf'(?<![\w.]){re.escape(variable)} == "(\w+)"', source_of("trl", file))
    return tuple(dict.fromkeys(found))


@cache
def losses_with_f_divergence() -> tuple[str, ...]:
    """The losses of DPO that TRL computes with another divergence than reverse KL; it refuses the rest."""
    listed = re.search(r"f_divergence_loss_types = \{(.*?)\}", source_of("trl", "trainer/dpo_trainer.py"), re.S)
    return tuple(re.findall(r'"(\w+)"', listed.group(1))) if listed else ()


def check_named(method: str, field: str, value: Any) -> Any:
    """The value, if it is one of the names, or a list of them where they may be combined."""
    known, several = names_of(method, field), _COMPARED[method, field][2]
    given = value if several and isinstance(value, list) and value else [value]
    for name in given:
        if name not in known:
            expected = f"one of {', '.join(known)}" + (", or a list of these" if several else "")
            near = nearest(name, known, cutoff=0.5) if isinstance(name, str) else ""
            hint = FOREIGN_VALUES.get(str(name)) or (f"Did you mean {near}?" if near else "")
            raise fault(expected, hint=hint)
    return value
