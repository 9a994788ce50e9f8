"""The canonical forms every data format is turned into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")

IGNORE = -100  # the label of a token nothing is learned from, as in torch's cross entropy


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `role` is one of ROLES; `content` is the text the template gets, unchanged.

    `tool_calls` are in the form templates read: {"type": "function", "function": {"name": str, "arguments": dict}}.
    `weight` is 1 or 0 and multiplies what `train_on` chooses: 0 takes a turn out, 1 puts none in. Templates never see
    it. `weight_as` is how the row spelled it, ("train", False) for example; it is no part of what the message says.
    """

    role: str
    content: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    reasoning_content: str | None = None
    name: str | None = None
    tool_call_id: str | None = None
    weight: float = 1.0
    weight_as: tuple[str, bool | float] | None = field(default=None, compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The message as templates take it. Absent fields are left out: templates test `'tool_calls' in message`."""
        result: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            result["tool_calls"] = list(self.tool_calls)
        for key in ("reasoning_content", "name", "tool_call_id"):
            value = getattr(self, key)
            if value is not None:
                result[key] = value
        return result

    def texts(self) -> Iterator[str]:
        """Every text of the message that a template must write somewhere, or it would be lost."""
        yield self.content
        if self.reasoning_content:
            yield self.reasoning_content
        if self.name and self.role != "tool":  # a tool's name only repeats the call's
            yield self.name
        for call in self.tool_calls:
            yield call["function"]["name"]
            yield from _leaves(call["function"]["arguments"])


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str):
        yield value
    elif value is not None and not isinstance(value, bool | float):  # those have several right spellings
        yield str(value)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages of one row, or raw text to train on whole (`text`, then `messages` is empty).

    `place` names the row for people: "train.jsonl:17" (line) or "train.json row 17" (1-based).
    `tools` are the function schemas offered to the model, as templates take them.

    In preference data `messages` is the prompt, and each answer begins and ends with an assistant turn. A pair has
    `chosen` and `rejected`. An unpaired row has a `label` and one answer: `chosen` if it is true, else `rejected`.

    `origin` is what only the row's spelling knows (which of two names a key had); the formats' `to_row` reads it.
    """

    messages: tuple[Message, ...]
    place: str
    text: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    label: bool | None = None
    origin: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def turns(self) -> Iterator[Message]:
        """Every message of the row: those of the prompt, then those of the answers to compare."""
        yield from self.messages
        yield from self.chosen
        yield from self.rejected

    def as_dicts(self) -> list[dict[str, Any]]:
        """The messages as templates take them; in preference data, the prompt."""
        return [message.as_dict() for message in self.messages]


@dataclass(slots=True)
class Example:
    """Token ids and labels of equal length; a label is its token's id, or -100 where nothing is learned.

    The first label is always -100: no token precedes it, so no loss can be computed there.
    """

    input_ids: list[int]
    labels: list[int]
    place: str
    truncated: int = 0  # tokens cut from this example to fit max_length
    unlearned: int = 0  # how many of those were supervised

    @property
    def supervised(self) -> int:
        return len(self.labels) - self.labels.count(IGNORE)
