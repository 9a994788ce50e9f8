"""What models are evaluated on: rows of any format, rendered as in training, and every row accounted for."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.data.account import Account
from fastft.data.audit import Audit
from fastft.data.conversation import Conversation, Example
from fastft.data.convert import Converter
from fastft.data.render import Renderer
from fastft.data.sources import open_sources
from fastft.data.store import encode, example_columns
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import DatasetError, Fault, RecipeError
from fastft.reading import read_yaml

if TYPE_CHECKING:
    from fastft.recipe.data_section import DataSection
    from fastft.run import Run

_SEED = 3407  # of the rows that are answered, so that every model and every call answers the same ones
_NO_ROOM = "the prompt leaves no room for an answer in what the model reads"
_LEAST_ANSWER, _MOST_ANSWER = 32, 1024  # new tokens allowed where nobody said


@dataclass(frozen=True, slots=True)
class EvalData:
    """Rows as one tokenizer writes them. `owner[i]` is the index of the conversation that example i came of."""

    examples: list[Example]
    owner: list[int]
    conversations: list[Conversation]
    audit: Audit

    @property
    def longest(self) -> int:
        return max(len(example.input_ids) for example in self.examples)


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt to be answered, and the answer of the row. `row` is the index of its conversation."""

    row: int
    place: str
    text: str  # of the last turn before the answer
    expected: str
    prompt_ids: list[int]
    expected_tokens: int


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked, and why the other rows are not: reason -> number of rows."""

    asked: list[Question]
    not_asked: Mapping[str, int]


def section_for(run: Run | None, data: str | None, format: str, split: str) -> DataSection:
    """What is read: `data`, or the conversations that `run` held out; learned as the run's recipe says.

    Raises RecipeError where there is nothing to read or the format has no such name, DatasetError if the run held
    nothing out.
    """
    from pydantic import ValidationError

    from fastft.recipe.data_section import DataSection

    values: dict[str, Any] = {"on_error": "skip", "train_on": _recipe_of(run).get("train_on", "assistant")}
    if data is None:
        values |= {"path": str(_held_out(run)), "format": "messages"}
    else:
        values |= {"path": data, "format": format, "split": split}
    try:
        return DataSection.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"--{first['loc'][0]} {first['input']!r}: {first['msg']}") from error


def _recipe_of(run: Run | None) -> dict[str, Any]:
    """The data section of the run's recipe; {} without a run, or where it says nothing of data."""
    if run is None or not run.recipe_path.is_file():
        return {}
    section = read_yaml(run.recipe_path, RecipeError).get("data")
    return section if isinstance(section, dict) else {}


def _held_out(run: Run | None) -> Path:
    if run is None:
        raise RecipeError(
            "There is nothing to evaluate on: no run was named that held data out",
            hint="Give the data: fastft eval MODEL --data FILE (JSONL, JSON, CSV, Parquet or a Hub id).",
        )
    path = run.heldout_path
    if not path.is_file() or path.stat().st_size == 0:
        raise DatasetError(
            f"The run {run.directory} held no conversations out of its training (data.eval_split)",
            hint=f"Give data that it was not trained on: fastft eval {run.directory} --data FILE",
        )
    return path


def read_rows(section: DataSection, tokenizer: ChatTokenizer, *, max_length: int) -> EvalData:
    """All rows of `section`, rendered with `tokenizer` into examples of at most `max_length` tokens.

    Raises DatasetError: nothing to read, of no known format, or nothing in it to evaluate on.
    """
    account = Account()
    converter = Converter(section, account)
    renderer = Renderer(tokenizer, max_length=max_length, train_on=section.train_on, truncation=section.truncation)
    examples: list[Example] = []
    owner: list[int] = []
    conversations: list[Conversation] = []
    sources = open_sources(section, section.path, split=section.split)
    for source in sources:
        for rendered in renderer.render_all(converter.conversations(source)):
            account.add(rendered, encode(rendered.conversation))
            owner.extend([len(conversations)] * len(rendered.examples))
            examples.extend(rendered.examples)
            conversations.append(rendered.conversation)
        converter.refuse_faults(source)
    if examples:
        account.add_examples(example_columns(examples))
    name = " + ".join(source.name for source in sources)
    audit = _audit(account, conversations, converter, tokenizer, max_length, name)
    if not audit.evaluation.supervised:
        raise _nothing(audit)
    return EvalData(examples, owner, conversations, audit)


def _audit(
    account: Account,
    conversations: Sequence[Conversation],
    converter: Converter,
    tokenizer: ChatTokenizer,
    max_length: int,
    source: str,
) -> Audit:
    import numpy as np

    everything = np.arange(len(conversations))
    return account.audit(
        everything[:0],
        everything,
        lambda index: conversations[index].place,
        source=source,
        format=converter.format,
        template_sha256=tokenizer.template_sha256,
        max_length=max_length,
    )


def _nothing(audit: Audit) -> DatasetError:
    faults = [Fault(t.places[0], f"{reason} ({t.count:,} rows)", "") for reason, t in audit.dropped.items()]
    faults += [Fault(text, "", "") for text in audit.broken[:3]]
    return DatasetError(
        f"{audit.source}: none of its {audit.rows:,} rows can be evaluated on",
        hint="A row needs an answer of the assistant that fits into --max-length.",
        faults=faults,
    )


def questions(
    data: EvalData, tokenizer: ChatTokenizer, samples: int, *, room: int, limit: int | None = None
) -> Questions:
    """At most `samples` rows to be answered, the same ones at every call, in the order of the data.

    Each is asked for its last answer. `room` is what the models can read, in tokens, and `limit` the longest answer.
    """
    not_asked: Counter[str] = Counter()
    able: list[tuple[int, int]] = []
    for row in sorted(set(data.owner)):
        last, reason = _last_answer(data.conversations[row])
        if reason:
            not_asked[reason] += 1
        else:
            able.append((row, last))
    asked: list[Question] = []
    for row, last in random.Random(_SEED).sample(able, len(able)):
        if len(asked) == samples:
            break
        question = _question(row, data.conversations[row], last, tokenizer)
        if len(question.prompt_ids) + (limit or answer_limit([question], room)) > room:
            not_asked[_NO_ROOM] += 1
        else:
            asked.append(question)
    more = len(able) - len(asked) - not_asked[_NO_ROOM]
    not_asked[f"more than --samples {samples:,}"] = more
    return Questions(sorted(asked, key=lambda question: question.row), {k: n for k, n in not_asked.items() if n})


def with_room(found: Questions, limit: int, room: int) -> Questions:
    """Without the questions whose prompt leaves no place for `limit` new tokens; they are counted."""
    asked = [question for question in found.asked if len(question.prompt_ids) + limit <= room]
    lost = found.not_asked.get(_NO_ROOM, 0) + len(found.asked) - len(asked)
    return Questions(asked, dict(found.not_asked) | ({_NO_ROOM: lost} if lost else {}))


def in_common(found: Mapping[str, Questions]) -> dict[str, Questions]:
    """Only the rows that are asked of every model: their answers are compared."""
    common = set.intersection(*({question.row for question in one.asked} for one in found.values()))
    return {
        key: Questions([question for question in one.asked if question.row in common], one.not_asked)
        for key, one in found.items()
    }


def _last_answer(conversation: Conversation) -> tuple[int, str]:
    """(index of the last assistant turn, why it can't be asked for or "")."""
    messages = conversation.messages
    last = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=-1)
    if last < 1:
        return last, "no prompt and answer" if conversation.text is None else "plain text"
    if messages[last].tool_calls:
        return last, "the last answer is a tool call, which has many right spellings"
    return (last, "") if messages[last].content.strip() else (last, "the last answer is empty")


def _question(row: int, conversation: Conversation, last: int, tokenizer: ChatTokenizer) -> Question:
    before, answer = conversation.as_dicts()[:last], conversation.messages[last].content
    asked = next((m.content for m in reversed(conversation.messages[:last]) if m.role != "assistant"), "")
    ids = tokenizer.prompt_ids(before, tools=conversation.tools or None)
    return Question(row, conversation.place, asked, answer, ids, len(tokenizer.encode(answer)))


def answer_limit(asked: Iterable[Question], room: int) -> int:
    """New tokens allowed where nobody said: a half more than the longest expected answer, between 32 and 1,024, and at
    most half of what the model can read."""
    longest = max((question.expected_tokens for question in asked), default=0)
    return min(max(_LEAST_ANSWER, longest + longest // 2 + 8), _MOST_ANSWER, room // 2)


def run_max_length(run: Run | None) -> int | None:
    """The longest example that the run was trained on, in tokens; None where its manifest doesn't tell."""
    if run is None or not run.finished:
        return None
    return run.manifest().get("data", {}).get("max_length")
