"""The data stage: a recipe's `data` section and a tokenizer in, examples to train on and their audit out.

Rows stream through: read, converted, rendered, written to Arrow and counted, so memory doesn't grow with their number.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from fastft.data import cache
from fastft.data.account import Account
from fastft.data.audit import Audit
from fastft.data.convert import Converter
from fastft.data.emptiness import require_some
from fastft.data.preferences import rendered_as
from fastft.data.render import Rendered, Renderer
from fastft.data.sources import Source, sources_of
from fastft.data.store import (
    Conversations,
    Examples,
    TableWriter,
    conversation_columns,
    conversation_schema,
    encode,
    example_columns,
    example_schema,
    read_table,
    write_table,
)
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import DatasetError

if TYPE_CHECKING:
    import numpy as np

    from fastft.data.conversation import Conversation
    from fastft.data.formats import Kind
    from fastft.recipe.data_section import DataSection

_LOG = logging.getLogger("fastft")
_CHUNK = 512  # conversations written at a time
_WORTH_KEEPING = 1.0  # seconds that preparing must have taken


@dataclass(frozen=True, slots=True)
class PreparedData:
    """What is trained on and what is held out; the conversations are those of the examples, in order.

    A conversation has one example or more; a preference pair two (chosen, rejected); a judged answer or a prompt one.
    """

    train: Examples
    evaluation: Examples
    train_conversations: Conversations
    evaluation_conversations: Conversations
    audit: Audit


def prepare_data(
    data: DataSection, tokenizer: ChatTokenizer, *, max_length: int, seed: int, kind: Kind = "conversation"
) -> PreparedData:
    """Read, convert, split, render and count. `max_length` is in tokens; `seed` picks the held-out rows.

    `kind` is what the method learns from: see `data.formats.Format`.

    What took more than a second is kept in the user's cache directory and found again while nothing has changed.

    Raises DatasetError: a source that can't be read, malformed rows (all of them named), a split that leaves nothing,
    or data of which nothing can be learned.
    """
    sources, held_out = sources_of(data, seed)
    return prepare_sources(data, sources, held_out, tokenizer, max_length=max_length, seed=seed, kind=kind)


def prepare_sources(
    data: DataSection,
    sources: Sequence[Source],
    held_out: Sequence[Source],
    tokenizer: ChatTokenizer,
    *,
    max_length: int,
    seed: int,
    kind: Kind = "conversation",
) -> PreparedData:
    """`prepare_data` for sources that are open already; what `data` says of where its rows are is not looked at."""
    key = cache.key_of(
        {
            "data": data.model_dump(mode="json"),
            "sources": [source.fingerprint() for source in (*sources, *held_out)],
            "tokenizer": tokenizer.fingerprint,
            "max_length": max_length,
            "seed": seed,
            "kind": kind,
        }
    )
    if (kept := cache.find(key)) is not None:
        return _read(kept)
    made = cache.staging(key)
    try:
        work = _Preparation(data, tokenizer, made, max_length=max_length, kind=kind)
        return _prepare(work, sources, held_out, data, made, key, seed=seed)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _prepare(
    work: _Preparation,
    sources: Sequence[Source],
    held_out: Sequence[Source],
    data: DataSection,
    made: Path,
    key: str,
    *,
    seed: int,
) -> PreparedData:
    started = time.perf_counter()
    work.take(sources)
    usable = work.account.conversations
    work.take(held_out)
    name = " + ".join(source.name for source in (*sources, *held_out))
    train, evaluation = _split(data, usable, work.account.contents(), seed, name)
    prepared = work.finish(train, evaluation, name)
    if time.perf_counter() - started > _WORTH_KEEPING:
        _keep(prepared, made, key)
    return prepared


class _Preparation:
    """One pass over the rows of all sources."""

    def __init__(self, data: DataSection, tokenizer: ChatTokenizer, made: Path, *, max_length: int, kind: Kind) -> None:
        self.account = Account()
        self._kind: Kind = kind
        self._data = data
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._renderer = Renderer(tokenizer, max_length=max_length, train_on=data.train_on, truncation=data.truncation)
        self._converter = Converter(data, self.account, kind)
        self._examples = TableWriter(made / "examples.arrow")
        self._conversations = TableWriter(made / "conversations.arrow")

    def take(self, sources: Sequence[Source]) -> None:
        """All rows of the sources. Raises DatasetError if rows are broken, unless data.on_error is skip."""
        for source in sources:
            rendered = self._rendered(self._converter.conversations(source))
            while chunk := list(islice(rendered, _CHUNK)):
                self._write(chunk)
            self._converter.refuse_faults(source)

    def _rendered(self, conversations: Iterator[Conversation]) -> Iterator[Rendered]:
        return rendered_as(self._kind, self._renderer, self._tokenizer, conversations, self._max_length)

    def _write(self, rendered: Sequence[Rendered]) -> None:
        contents = [encode(r.conversation) for r in rendered]
        for one, content in zip(rendered, contents, strict=True):
            self.account.add(one, content)
        self._conversations.add(conversation_columns([r.conversation for r in rendered], contents))
        columns = example_columns([example for r in rendered for example in r.examples])
        self.account.add_examples(columns)
        self._examples.add(columns)

    def finish(self, train: np.ndarray, evaluation: np.ndarray, source: str) -> PreparedData:
        """The tables, the split and the audit. Raises DatasetError if nothing is left of a side that was asked for."""
        account, data = self.account, self._data
        conversations = self._conversations.finish(conversation_schema())
        examples = self._examples.finish(example_schema())
        audit = account.audit(
            train,
            evaluation,
            lambda index: conversations["place"][index].as_py(),
            source=source,
            format=self._converter.format,
            template_sha256=self._tokenizer.template_sha256,
            max_length=self._max_length,
        )
        require_some(audit.train.examples, audit, "to train on")
        if data.eval_split is not None:
            require_some(audit.evaluation.examples, audit, "to evaluate on")
        return PreparedData(
            Examples(examples, account.examples_of(train)),
            Examples(examples, account.examples_of(evaluation)),
            Conversations(conversations, account.kept(train)),
            Conversations(conversations, account.kept(evaluation)),
            audit,
        )


def _split(
    data: DataSection, usable: int, contents: np.ndarray, seed: int, source: str
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the conversations to train on and of those held out, both in the order they were read."""
    import numpy as np

    everything = np.arange(len(contents))
    if data.eval_split is None or isinstance(data.eval_split, str):
        return everything[:usable], everything[usable:]
    held_out = hold_out(contents[:usable], data.eval_split, seed, source)
    return everything[~held_out], everything[held_out]


def hold_out(contents: np.ndarray, wanted: float, seed: int, source: str) -> np.ndarray:
    """Whether each row is held out; `contents` tells equal rows, `wanted` is a share below 1 or a number of rows.

    Equal rows (repeated in the file, or by a mixture's weight) stay on one side. The same seed and rows give the same
    split. Raises DatasetError if nothing would be left to train on.
    """
    import numpy as np

    total = len(contents)
    count = max(1, round(wanted * total)) if isinstance(wanted, float) and wanted < 1 else int(wanted)
    distinct, which, sizes = np.unique(contents, return_inverse=True, return_counts=True)
    order = np.array(random.Random(seed).sample(range(len(distinct)), len(distinct)), np.int64)
    chosen = order[: int(np.searchsorted(sizes[order].cumsum(), count)) + 1]
    if total and len(chosen) >= len(distinct):
        raise DatasetError(
            f"{source}: data.eval_split holds out {count:,} of {total:,} usable rows"
            + (f" ({len(distinct):,} different ones; equal rows stay together)" if len(distinct) < total else "")
            + ", which leaves none to train on",
            hint="Lower data.eval_split, or give a file of its own.",
        )
    held_out = np.zeros(len(distinct), bool)
    held_out[chosen] = True
    return held_out[which]


def _keep(prepared: PreparedData, made: Path, key: str) -> None:
    """Into the cache; the audit last, so that its being there means the entry is whole.

    Where that can't be, the data is there all the same: a warning is enough.
    """
    import numpy as np

    try:
        made.mkdir(parents=True, exist_ok=True)
        write_table(prepared.train.table, made / "examples.arrow")
        write_table(prepared.evaluation_conversations.table, made / "conversations.arrow")
        for name in _PARTS:
            np.save(made / f"{name}.npy", getattr(prepared, name).chosen)
        (made / "audit.json").write_text(json.dumps(prepared.audit.as_dict()), encoding="utf-8")
        cache.keep(key, made)
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        _LOG.warning("prepared data is not kept, so it will be prepared again: %s", error)


_PARTS = ("train", "evaluation", "train_conversations", "evaluation_conversations")


def _read(folder: Path) -> PreparedData:
    import numpy as np

    train, evaluation, learned, held_out = (np.load(folder / f"{name}.npy") for name in _PARTS)
    examples, conversations = read_table(folder / "examples.arrow"), read_table(folder / "conversations.arrow")
    return PreparedData(
        Examples(examples, train),
        Examples(examples, evaluation),
        Conversations(conversations, learned),
        Conversations(conversations, held_out),
        Audit.from_dict(json.loads((folder / "audit.json").read_text(encoding="utf-8"))),
    )
