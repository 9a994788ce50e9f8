"""What a conversation doesn't say of how its row was written, kept so that `to_row` gives the same row again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastft.data.conversation import Conversation, Message

_EMPTY = (None, "", [])


def origin_of(row: Mapping[str, Any], columns: tuple[str, ...], **spelled: Any) -> dict[str, Any] | None:
    """How `row` spells the columns a format reads: which are empty, which are JSON text, and what `spelled` adds."""
    origin = {key: value for key, value in spelled.items() if value}
    if empty := {column: row[column] for column in columns if column in row and row[column] in _EMPTY}:
        origin["empty"] = empty
    if texts := [column for column in columns if _looks_like_list(row.get(column))]:
        origin["json"] = texts
    if "system" in columns and row.get("system"):
        origin["system"] = True
    if "tools" in columns and _bare(row.get("tools")):
        origin["bare_tools"] = True
    return origin or None


def _looks_like_list(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("[")


def _bare(tools: Any) -> bool:
    """Whether the schemas stand alone, not under "function". Told from the first; a text is not parsed again for it."""
    if isinstance(tools, str):
        return tools.lstrip("[{ \n\t").startswith('"name"')
    first = tools[0] if isinstance(tools, list) and tools else None
    return isinstance(first, dict) and not first.get("function") and "input_schema" not in first


def said(conversation: Conversation, key: str, default: Any = None) -> Any:
    """One entry of the conversation's origin; `default` where there is none."""
    return (conversation.origin or {}).get(key, default)


def without_system(conversation: Conversation) -> tuple[Message, ...]:
    """The messages but for a system turn that came from the row's `system` column."""
    return conversation.messages[1:] if said(conversation, "system") else conversation.messages


def row_of(conversation: Conversation, values: dict[str, Any]) -> dict[str, Any]:
    """`values` with the columns all formats share, everything spelled as in the row the conversation came from."""
    row = dict(values)
    if said(conversation, "system"):
        row["system"] = conversation.messages[0].content
    texts = said(conversation, "json", ())
    if conversation.tools or "tools" in texts:
        bare = said(conversation, "bare_tools")
        row["tools"] = [tool["function"] if bare else tool for tool in conversation.tools]
    for column in texts:
        if isinstance(row.get(column), list):  # a text may just happen to be JSON
            row[column] = json.dumps(row[column], ensure_ascii=False)
    return {**row, **said(conversation, "empty", {})}
