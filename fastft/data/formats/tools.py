"""Tool schemas and tool calls in the spellings data sets use, turned into the one chat templates read."""

from __future__ import annotations

from typing import Any

from fastft.data.faults import RowFaultError
from fastft.data.formats.fields import described, parsed


def read_tools(row: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """The row's `tools`: a list, or JSON text of one; a bare schema is put under "function", as templates expect."""
    value = row.get("tools")
    if isinstance(value, str):
        value = parsed(value, "tools") if value.strip() else None
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RowFaultError(f"tools is {described(value)}", "a list of tool schemas")
    return tuple(_tool(tool, number) for number, tool in enumerate(value, 1))


def _tool(tool: Any, number: int) -> dict[str, Any]:
    inner = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise RowFaultError(f"tool {number} is {described(tool)}", "a schema with a name")
    return tool if inner is not tool else {"type": "function", "function": tool}


def read_calls(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """Calls given as one object or a list, bare or under "function", arguments as an object or JSON text.

    Keeps `id`. Raises RowFaultError.
    """
    if isinstance(value, str):
        value = parsed(value, where)
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise RowFaultError(f"{where} is an empty list", "at least one call")
    return tuple(_call(call, where) for call in calls)


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowFaultError(f"{where} is {described(call)}", "an object with name and arguments")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        arguments = parsed(arguments, f"the arguments of {function['name']}") if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise RowFaultError(f"the arguments of {function['name']} are {described(arguments)}", "an object")
    result = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return result if call.get("id") is None else {"id": call["id"], **result}
