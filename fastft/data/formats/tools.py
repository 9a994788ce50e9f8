"""Tool schemas and tool calls in the spellings data sets use, turned into the one chat templates read."""

from __future__ import annotations

from typing import Any

from fastft.data.faults import RowFaultError, RowRefusedError
from fastft.data.formats.fields import described, parsed

CALL_TYPES = ("tool_use", "tool_call", "function_call")  # of content parts; elsewhere it is "function"
# OpenAI's name, then what others write: Llama, Anthropic, LangChain.
_ARGUMENTS = ("arguments", "parameters", "input", "args")


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
    inner = (tool.get("function") or tool) if isinstance(tool, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise RowFaultError(f"tool {number} is {described(tool)}", "a schema with a name")
    if inner is not tool:
        return tool
    if "input_schema" in tool and "parameters" not in tool:  # Anthropic's name for it
        tool = {("parameters" if key == "input_schema" else key): value for key, value in tool.items()}
    return {"type": "function", "function": tool}


def read_calls(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """Calls given as one object or a list, bare or under "function", arguments as an object or JSON text.

    Keeps `id`. Raises RowFaultError; RowRefusedError where a call has a field that templates don't write.
    """
    if isinstance(value, str):
        value = parsed(value, where)
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise RowFaultError(f"{where} is an empty list", "at least one call")
    return tuple(_call(call, where) for call in calls)


def _call(call: Any, where: str) -> dict[str, Any]:
    function = (call.get("function") or call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowFaultError(f"{where} is {described(call)}", "an object with name and arguments")
    _refuse_unknown(call, function, where)
    arguments = _arguments(function, where)
    if not isinstance(call.get("id"), str | int | None):
        raise RowFaultError(f"the id of {where} is {described(call['id'])}", "a text")
    result = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return result if call.get("id") is None else {"id": call["id"], **result}


def _arguments(function: dict[str, Any], where: str) -> dict[str, Any]:
    given = [key for key in _ARGUMENTS if function.get(key) is not None]
    if len(given) > 1:
        raise RowFaultError(f"{where} has {' and '.join(given)}", "one of them")
    arguments = function[given[0]] if given else {}
    if isinstance(arguments, str):
        arguments = parsed(arguments, f"the arguments of {function['name']}") if arguments.strip() else {}
    if not isinstance(arguments, dict):
        raise RowFaultError(f"the arguments of {function['name']} are {described(arguments)}", "an object")
    return arguments


def _refuse_unknown(call: dict[str, Any], function: dict[str, Any], where: str) -> None:
    """Raises RowRefusedError for what a call holds beside its id, its name and its arguments."""
    inner = {"name", *_ARGUMENTS}
    outer = {"id", "type", "index"} | ({"function"} if function is not call else inner)  # index: its place in the turn
    unknown = [key for key in call if key not in outer and call[key] not in (None, "", [], {})]
    if function is not call:
        unknown += [key for key in function if key not in inner and function[key] not in (None, "", [], {})]
    if unknown:
        raise RowRefusedError("a tool call has a field that training does not use", f"{where}: {', '.join(unknown)}")
    if call.get("type") not in (None, "function", *CALL_TYPES):
        raise RowRefusedError("a tool call is of a type that templates don't write", f"{where}: {call['type']}")
