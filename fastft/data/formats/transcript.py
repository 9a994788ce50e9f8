"""Transcripts as in Anthropic's HH sets: "\\n\\nHuman: … \\n\\nAssistant: …" in one text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fastft.data.conversation import Message

_ROLES = {"Human": "user", "Assistant": "assistant"}
_TAGS = {role: tag for tag, role in _ROLES.items()}
_MARK = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


def is_transcript(text: str) -> bool:
    """Whether `text` begins with a Human turn and has an Assistant turn after it."""
    return text.startswith(("Human:", "\n\nHuman:")) and "\n\nAssistant:" in text


def read_transcript(text: str) -> list[Message]:
    """The turns, without the one space after each mark. Only for a text that `is_transcript`."""
    _, *pieces = _MARK.split(text)
    return [
        Message(_ROLES[tag], content.removeprefix(" ")) for tag, content in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def transcript_spelling(text: str) -> dict[str, Any]:
    """What `write_transcript` needs to know of `text`."""
    return {"shape": "transcript"} | ({"starts": True} if text.startswith("Human:") else {})


def write_transcript(messages: Sequence[Message], spelled: dict[str, Any]) -> str:
    text = "".join(f"\n\n{_TAGS[m.role]}:" + (f" {m.content}" if m.content else "") for m in messages)
    return text.removeprefix("\n\n") if spelled.get("starts") else text
