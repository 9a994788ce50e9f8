"""What the models are scored on and asked: settled for all of them before one is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.data.tokenizer import ChatTokenizer
from fastft.evals.columns import Column, Columns
from fastft.evals.data import (
    EvalData,
    Questions,
    answer_limit,
    in_common,
    questions,
    read_rows,
    run_max_length,
    section_for,
    with_room,
)
from fastft.files import sha256_of

if TYPE_CHECKING:
    from fastft.evals.options import Options
    from fastft.metrics import BertScorer

_LONGEST = 4096  # tokens of an example, where no run says


@dataclass(frozen=True, slots=True)
class Asked:
    """What each column is scored on and asked, by its tokenizer's fingerprint, and what is said of it all."""

    tokenizers: Mapping[str, ChatTokenizer]  # by column name
    data: Mapping[str, EvalData]
    questions: Mapping[str, Questions]
    limit: int
    max_length: int
    facts: Mapping[str, Any]
    notes: tuple[str, ...]
    scorer: BertScorer | None
    no_bertscore: str

    def of(self, column: Column) -> tuple[ChatTokenizer, EvalData, Questions]:
        tokenizer = self.tokenizers[column.name]
        return tokenizer, self.data[tokenizer.fingerprint], self.questions[tokenizer.fingerprint]


def settle(found: Columns, data: Path | str | None, format: str, split: str, options: Options) -> Asked:
    """Rows and questions for every tokenizer among the columns, all of it before a model is loaded."""
    from fastft.metrics import find_bert_scorer

    section = section_for(found.run, None if data is None else str(data), format, split)
    scorer, why_not = find_bert_scorer(options.bertscore)
    room = min(column.room() for column in found.columns)
    longest = min(options.max_length or run_max_length(found.run) or _LONGEST, room)
    tokenizers = {column.name: ChatTokenizer.load(column.tokenizer) for column in found.columns}
    by_print = {tokenizer.fingerprint: tokenizer for tokenizer in tokenizers.values()}
    read = {key: read_rows(section, one, max_length=longest) for key, one in by_print.items()}
    wanted = options.max_new_tokens
    asked = {key: questions(read[key], by_print[key], options.samples, room=room, limit=wanted) for key in by_print}
    limit = wanted or answer_limit((q for one in asked.values() for q in one.asked), room)
    asked = in_common({key: with_room(one, limit, room) for key, one in asked.items()})
    notes = [*found.notes, *_about(read)]
    notes += _gguf_notes(found.columns, tokenizers, read)
    first = next(iter(read))
    facts = _facts(read[first], asked[first], section.path)
    return Asked(tokenizers, read, asked, limit, longest, facts, tuple(notes), scorer, why_not)


def _gguf_notes(
    columns: Sequence[Column], tokenizers: Mapping[str, ChatTokenizer], read: Mapping[str, EvalData]
) -> list[str]:
    from fastft.evals.engines import require_same_ids

    found = []
    for column in columns:
        if column.gguf is not None:
            tokenizer = tokenizers[column.name]
            found.append(require_same_ids(column, tokenizer, read[tokenizer.fingerprint].examples))
    return [note for note in found if note]


def _about(read: Mapping[str, EvalData]) -> list[str]:
    """What whoever reads the numbers has to know of the rows that they are of."""
    one = next(iter(read.values()))
    part = one.audit.evaluation
    notes = [*one.audit.warnings]
    if part.truncated_examples:
        cut = f"{part.truncated_supervised:,} supervised tokens with them"
        notes.append(
            f"{part.truncated_examples:,} rows or parts of rows are cut at {one.audit.max_length:,} tokens, {cut}"
        )
    if len(read) > 1:
        notes.append("the models have different tokenizers or templates: compare their answers, not loss a token")
    if len({tuple(sorted(set(each.owner))) for each in read.values()}) > 1:
        notes.append("some rows are left out for one tokenizer and not for another, so the loss is of different rows")
    return notes


def _facts(one: EvalData, asked: Questions, path: Any) -> dict[str, Any]:
    """Every row: scored, or left out with a reason; asked, or not with a reason."""
    audit, part = one.audit, one.audit.evaluation
    return {
        "summary": f"{audit.source} ({audit.format}): {part.rows:,} of {audit.rows:,} rows, "
        f"{part.supervised:,} supervised tokens; {len(asked.asked):,} answers",
        "source": audit.source,
        "sha256": sha256_of(Path(path)) if isinstance(path, str) and Path(path).is_file() else None,
        "format": audit.format,
        "rows": audit.rows,
        "scored_rows": part.rows,
        "supervised_tokens": part.supervised,
        "left_out": {reason: {"rows": t.count, "places": list(t.places)} for reason, t in audit.dropped.items()},
        "broken": list(audit.broken),
        "asked": len(asked.asked),
        "not_asked": dict(asked.not_asked),
        "max_length": audit.max_length,
    }
