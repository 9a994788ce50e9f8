"""YAML as a recipe means it: the core schema of YAML 1.2, on PyYAML's parser.

PyYAML speaks YAML 1.1, where `2e-5` is text, `no` is false, `010` is eight and `12:30` is 750. Recipes are full of
such values (`learning_rate: 2e-5`, `report_to: no`), so scalars are resolved here by the rules of YAML 1.2.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_MOST_DIGITS = 400  # of a whole number; the largest float has 309
HALF = re.compile("[\ud800-\udfff]")  # of a pair of surrogates, which an escape can write and no file can hold
_RESOLVERS = (
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")),
    (
        "float",
        re.compile(
            r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        list("-+.0123456789"),
    ),
)


class RecipeYamlLoader(yaml.SafeLoader):
    """SafeLoader's parser with YAML 1.2's scalars. Only composes nodes; `scalar` turns them into values."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 -- PyYAML's own name


class RecipeYamlDumper(yaml.SafeDumper):
    """SafeDumper that quotes every text which YAML 1.1 or YAML 1.2 would read as something else."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)


class _FlowDumper(RecipeYamlDumper):
    pass


_FlowDumper.add_multi_representer(object, lambda dumper, value: dumper.represent_str(repr(value)))

for _name, _pattern, _first in _RESOLVERS:
    RecipeYamlLoader.add_implicit_resolver(_TAG + _name, _pattern, _first)
    RecipeYamlDumper.add_implicit_resolver(_TAG + _name, _pattern, _first)


def compose(text: str) -> yaml.Node | None:
    """The root node of the one document in `text`, or None if there is none. Raises yaml.YAMLError."""
    loader = RecipeYamlLoader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def dump(value: Any) -> str:
    """`value` as block YAML in the order given; `compose` reads the same value back."""
    return yaml.dump(value, Dumper=RecipeYamlDumper, sort_keys=False, allow_unicode=True, width=110)


def scalar(node: yaml.ScalarNode) -> Any:
    """The value of a scalar. Raises ValueError for a tag a recipe has no use for (`!!python/…`, `!include`), and for
    what isn't the number its tag says."""
    kind, text = node.tag.removeprefix(_TAG), node.value
    if half := HALF.search(text):
        raise ValueError(f"U+{ord(half[0]):04X}, half of a character")
    if kind == "str":
        return text
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "int":
        if len(text) > _MOST_DIGITS:  # Python refuses to print such numbers, and takes long to read them
            raise ValueError(f"a number of {len(text):,} digits")
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    if kind == "float":
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    raise ValueError(f"the tag {node.tag.replace(_TAG, '!!')}")


def flow(value: Any) -> str:
    """`value` on one line, for messages; what YAML has no form for is shown as Python shows it."""
    text = yaml.dump([value], Dumper=_FlowDumper, default_flow_style=True, width=10_000, allow_unicode=True)
    return " ".join(text.split())[1:-1]
