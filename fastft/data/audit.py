"""What became of every row: counted, with reasons and places, so that nothing is lost in silence."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fastft.data.conversation import Conversation, Example
from fastft.data.render import Dropped, Rendered

if TYPE_CHECKING:
    from rich.table import Table

_PLACES = 3  # rows named for each reason
_MUCH_CUT = 0.05  # share of the supervised tokens whose loss to max_length is worth a warning
_MANY_TWINS = 0.05  # share of the rows whose being duplicates is worth a warning


@dataclass(frozen=True, slots=True)
class Tally:
    """How often something happened, where first, and the particulars of the first time."""

    count: int
    places: tuple[str, ...]
    detail: str = ""

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.places) else ""
        detail = f"; {self.detail}" if self.detail else ""
        return f"{self.count:,} ({', '.join(self.places)}{more}{detail})"


@dataclass(frozen=True, slots=True)
class Part:
    """The examples of one side of the split. Lengths are in tokens, before anything was cut."""

    rows: int
    examples: int
    tokens: int
    supervised: int
    truncated_examples: int
    truncated_tokens: int
    truncated_supervised: int
    lengths: Mapping[str, int]

    @property
    def supervised_share(self) -> float:
        return self.supervised / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, slots=True)
class Audit:
    """The account of a data set. Every row read is in `train.rows`, `evaluation.rows` or `lost_rows`.

    `dropped` counts by reason the rows (or single answers of rows) that were left out, `notes` what was done to rows
    that were kept. `fingerprint` is the SHA-256 of the conversations, whatever the file is called; `examples_sha256`
    that of ids and labels, so it also depends on tokenizer, template, split and max_length.
    """

    source: str
    format: str
    rows: int
    lost_rows: int
    train: Part
    evaluation: Part
    dropped: Mapping[str, Tally]
    notes: Mapping[str, Tally]
    duplicates: int
    leaked: Tally
    fingerprint: str
    examples_sha256: str
    template_sha256: str
    max_length: int
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"supervised_share": self.train.supervised_share}

    def summary(self) -> str:
        held_out = f", {self.evaluation.rows:,} held out" if self.evaluation.rows else ""
        lost = f", {self.lost_rows:,} left out" if self.lost_rows else ""
        return (
            f"{self.source} ({self.format}): {self.rows:,} rows, {self.train.rows:,} to train on{held_out}{lost}; "
            f"{self.train.tokens:,} tokens, {self.train.supervised_share:.0%} supervised"
        )

    def table(self) -> Table:
        from rich.table import Table

        table = Table(title=f"Data: {self.source}", title_justify="left", show_header=False, expand=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for label, value in self._lines():
            table.add_row(label, value)
        return table

    def _lines(self) -> Iterable[tuple[str, str]]:
        yield "rows", f"{self.rows:,} read as {self.format}, {self.lost_rows:,} left out"
        for name, part in (("train", self.train), ("evaluation", self.evaluation)):
            if part.examples:
                yield name, f"{part.rows:,} rows, {part.examples:,} examples"
                yield (
                    "  tokens",
                    f"{part.tokens:,}, of which {part.supervised:,} supervised ({part.supervised_share:.0%})",
                )
                yield "  length", "  ".join(f"{key} {value:,}" for key, value in part.lengths.items())
                cut = f"{part.truncated_examples:,} examples, {part.truncated_tokens:,} tokens"
                yield "  cut at max_length", f"{cut}, {part.truncated_supervised:,} of them supervised"
        yield "duplicates", f"{self.duplicates:,}"
        for reason, tally in self.dropped.items():
            yield "left out", f"{reason}: {tally}"
        for note, tally in self.notes.items():
            yield "note", f"{note}: {tally}"
        yield "fingerprint", self.fingerprint[:16]


def make_audit(
    *,
    source: str,
    format: str,
    rows: int,
    train: Sequence[Rendered],
    evaluation: Sequence[Rendered],
    refused: Sequence[Dropped],
    unused_columns: Mapping[str, Sequence[str]],
    max_length: int,
    template_sha256: str,
) -> Audit:
    """Count what became of `rows`: those `refused` at conversion, the others rendered for training or evaluation."""
    kept_train, kept_evaluation = _kept(train), _kept(evaluation)
    dropped = _tallies([*refused, *(drop for rendered in (*train, *evaluation) for drop in rendered.dropped)])
    digests = [_digest(r.conversation) for r in kept_train]
    known = set(digests)
    leaked = tally([(r.conversation.place, "") for r in kept_evaluation if _digest(r.conversation) in known])
    part = _part(kept_train)
    duplicates = len(digests) - len(known)
    return Audit(
        source=source,
        format=format,
        rows=rows,
        lost_rows=rows - len(kept_train) - len(kept_evaluation),
        train=part,
        evaluation=_part(kept_evaluation),
        dropped=dropped,
        notes=_notes([*kept_train, *kept_evaluation], unused_columns),
        duplicates=duplicates,
        leaked=leaked,
        fingerprint=_sha256(_digest(r.conversation) for r in (*train, *evaluation)),
        examples_sha256=_sha256(_example_bytes(e) for r in (*train, *evaluation) for e in r.examples),
        template_sha256=template_sha256,
        max_length=max_length,
        warnings=tuple(_warnings(part, dropped, duplicates, leaked, max_length)),
    )


def tally(occurrences: Sequence[tuple[str, str]]) -> Tally:
    """Of (place, detail) pairs."""
    places = tuple(dict.fromkeys(place for place, _ in occurrences))[:_PLACES]
    return Tally(len(occurrences), places, occurrences[0][1] if occurrences else "")


def _kept(rendered: Sequence[Rendered]) -> list[Rendered]:
    return [r for r in rendered if r.examples]


def _tallies(dropped: Sequence[Dropped]) -> dict[str, Tally]:
    by_reason: dict[str, list[tuple[str, str]]] = {}
    for drop in dropped:
        by_reason.setdefault(drop.reason, []).append((drop.place, drop.detail))
    return {reason: tally(found) for reason, found in sorted(by_reason.items(), key=lambda item: -len(item[1]))}


def _notes(kept: Sequence[Rendered], unused_columns: Mapping[str, Sequence[str]]) -> dict[str, Tally]:
    notes = {f"the column {name!r} is not used": tally([(p, "") for p in at]) for name, at in unused_columns.items()}
    split = [(r.conversation.place, "") for r in kept if r.split]
    if split:
        notes["conversations made into one example an answer"] = tally(split)
    unanswered = [(r.conversation.place, "") for r in kept if r.unanswered]
    if unanswered:
        notes["rows whose turns after the last answer are not used"] = tally(unanswered)
    return notes


def _part(kept: Sequence[Rendered]) -> Part:
    examples = [example for rendered in kept for example in rendered.examples]
    cut = [example for example in examples if example.truncated]
    return Part(
        rows=len(kept),
        examples=len(examples),
        tokens=sum(len(example.input_ids) for example in examples),
        supervised=sum(example.supervised for example in examples),
        truncated_examples=len(cut),
        truncated_tokens=sum(example.truncated for example in cut),
        truncated_supervised=sum(example.unlearned for example in cut),
        lengths=_quantiles([len(example.input_ids) + example.truncated for example in examples]),
    )


def _quantiles(lengths: Sequence[int]) -> dict[str, int]:
    if not lengths:
        return {}
    ordered = sorted(lengths)
    shares = {"min": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: ordered[round(share * (len(ordered) - 1))] for name, share in shares.items()}


def _warnings(
    train: Part, dropped: Mapping[str, Tally], duplicates: int, leaked: Tally, max_length: int
) -> Iterable[str]:
    for reason, found in dropped.items():
        yield f"left out because {reason}: {found}"
    wanted = train.supervised + train.truncated_supervised
    if wanted and train.truncated_supervised > _MUCH_CUT * wanted:
        share = train.truncated_supervised / wanted
        longest = f"the longest example has {train.lengths['max']:,} tokens"
        yield f"{share:.0%} of the supervised tokens are cut off at max_length {max_length:,}; {longest}"
    if duplicates > _MANY_TWINS * train.rows:
        yield f"{duplicates:,} of {train.rows:,} training rows repeat another one exactly"
    if leaked.count:
        yield f"evaluation rows that are also trained on, so that evaluation flatters: {leaked}"


def _digest(conversation: Conversation) -> bytes:
    """SHA-256 of all that a conversation says, wherever it stands."""
    content = [conversation.text, conversation.as_dicts(), conversation.tools]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")).digest()


def _example_bytes(example: Example) -> bytes:
    return array("i", [len(example.input_ids), *example.input_ids, *example.labels]).tobytes()


def _sha256(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
