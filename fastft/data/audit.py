"""What became of every row: the account that is printed, kept with the run, and compared when it is resumed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

PLACES = 3  # rows named for each reason
_BAR = 24  # characters of the longest bar
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
    histogram: Mapping[str, int]  # examples by length: up to 64, 128, … tokens

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
    sources: Mapping[str, int] = field(default_factory=dict)  # "chats.jsonl (messages)": rows seen of it
    broken: tuple[str, ...] = ()  # rows that data.on_error: skip passed over, each with its place and its fault

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Audit:
        """The audit that `as_dict` and JSON made `values` of."""
        tallies = {name: {what: _tally(tally) for what, tally in values[name].items()} for name in ("dropped", "notes")}
        parts = {name: Part(**values[name]) for name in ("train", "evaluation")}
        plain = {name: tuple(values[name]) for name in ("warnings", "broken")}
        own = {name: value for name, value in values.items() if name != "supervised_share"}
        return cls(**{**own, **tallies, **parts, **plain, "leaked": _tally(values["leaked"])})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"supervised_share": self.train.supervised_share}

    def summary(self) -> str:
        held_out = f", {self.evaluation.rows:,} held out" if self.evaluation.rows else ""
        lost = f", {self.lost_rows:,} left out" if self.lost_rows else ""
        rows = f"{counted(self.rows, 'row')}, {self.train.rows:,} to train on{held_out}{lost}"
        tokens = f"{counted(self.train.tokens, 'token')}, {self.train.supervised_share:.0%} supervised"
        return f"{self.source} ({self.format}): {rows}; {tokens}"

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
        if len(self.sources) > 1:
            for source, rows in self.sources.items():
                yield "  from", f"{source}: {counted(rows, 'row')}"
        for name, part in (("train", self.train), ("evaluation", self.evaluation)):
            if part.examples:
                yield name, f"{counted(part.rows, 'row')}, {counted(part.examples, 'example')}"
                yield (
                    "  tokens",
                    f"{part.tokens:,}, of which {part.supervised:,} supervised ({part.supervised_share:.0%})",
                )
                yield "  length", "  ".join(f"{key} {value:,}" for key, value in part.lengths.items())
                yield "", _bars(part.histogram)
                cut = f"{counted(part.truncated_examples, 'example')}, {counted(part.truncated_tokens, 'token')}"
                yield "  cut at max_length", f"{cut}, {part.truncated_supervised:,} of them supervised"
        yield "duplicates", f"{self.duplicates:,}"
        if self.broken:
            yield "broken rows", f"{len(self.broken):,} passed over; the first: {self.broken[0]}"
        for reason, tally in self.dropped.items():
            yield "left out", f"{reason}: {tally}"
        for note, tally in self.notes.items():
            yield "note", f"{note}: {tally}"
        yield "fingerprint", self.fingerprint[:16]


def counted(number: int, noun: str) -> str:
    """ "1 row", "1,700 rows" """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _bars(histogram: Mapping[str, int]) -> str:
    """A line a bucket: how many examples are no longer than that, as a bar and a number."""
    most = max(histogram.values(), default=0)
    wide = max((len(bound) for bound in histogram), default=0)
    return "\n".join(
        f"≤ {bound:>{wide}} {'█' * max(1, round(_BAR * count / most)) if count else '':{_BAR}} {count:,}"
        for bound, count in histogram.items()
    )


def histogram(lengths: Sequence[int]) -> dict[str, int]:
    """Examples by length, in buckets that double; empty ones before the first and after the last are left out."""
    if not lengths:
        return {}
    bounds = [2**power for power in range(4, 32)]
    counts = [0] * len(bounds)
    for length in lengths:
        counts[bisect_left(bounds, length)] += 1
    filled = [index for index, count in enumerate(counts) if count]
    return {f"{bounds[i]:,}": counts[i] for i in range(filled[0], filled[-1] + 1)}


def _tally(values: Mapping[str, Any]) -> Tally:
    return Tally(values["count"], tuple(values["places"]), values["detail"])


def quantiles(ordered: Sequence[int]) -> dict[str, int]:
    if not ordered:
        return {}
    shares = {"min": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: ordered[round(share * (len(ordered) - 1))] for name, share in shares.items()}


def warnings_of(
    train: Part, evaluation: Part, dropped: Mapping[str, Tally], duplicates: int, leaked: Tally, max_length: int
) -> Iterable[str]:
    for reason, found in dropped.items():
        yield f"left out because {reason}: {found}"
    for where, part in (("", train), (" of the held-out rows", evaluation)):
        wanted = part.supervised + part.truncated_supervised
        if wanted and part.truncated_supervised > _MUCH_CUT * wanted:
            share = part.truncated_supervised / wanted
            longest = f"the longest example has {part.lengths['max']:,} tokens"
            yield f"{share:.0%} of the supervised tokens{where} are cut off at max_length {max_length:,}; {longest}"
    if duplicates > _MANY_TWINS * train.rows:
        yield f"{duplicates:,} of {train.rows:,} training rows repeat another one exactly"
    if leaked.count:
        yield f"evaluation rows that are also trained on, so that evaluation flatters: {leaked}"
