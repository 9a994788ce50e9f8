"""A reward model's exports against the trained one: the scores of held-out conversations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.data.formats import load_format
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import DatasetError, ModelError
from fastft.inference import TextModel
from fastft.proof.merged import weight_checks
from fastft.proof.probes import BUILT_IN
from fastft.proof.result import Check
from fastft.proof.weights import compare_weights
from fastft.reward_model import RewardModel, load_scores
from fastft.run_files import read_heldout

if TYPE_CHECKING:
    from fastft.data.conversation import Conversation
    from fastft.exporters.source import Trained

_MOST = 1024  # tokens of a conversation; longer ones are left out, to bound time and memory
# Of the spread of the trained model's own scores. bfloat16 keeps 8 bits of each weight (2^-9 = 0.2 % of it), and a
# score sums many; the adapter is the same file, so nothing but the order of sums may differ.
_LIMITS = {"merged_16bit": 0.05, "adapter": 1e-4}


def classifier_checks(trained: Trained, folder: Path, kind: str, samples: int) -> Iterator[Check]:
    """All checks of an exported reward model. Raises ModelError if either side can't be loaded."""
    source = trained.source
    from fastft.exporters.base_model import open_weights

    base = source.base().folder
    own = source.folder if source.is_adapter else None
    reference = RewardModel(load_scores(base, own), ChatTokenizer.load(source.folder), _MOST)
    rows = _sequences(reference, trained.heldout, samples)
    expected = reference.score_ids(rows)
    found = load_scores(folder, None) if kind != "adapter" else load_scores(base, folder)
    yield Check("loads", "as a classifier with one score", "yes", True)
    if kind == "merged_16bit":
        yield from weight_checks(compare_weights(TextModel(reference.model, [], 0), open_weights(base), folder))
    exported = RewardModel(found, ChatTokenizer.load(folder), _MOST)
    same = _sequences(exported, trained.heldout, samples) == rows
    yield Check("prompt text", "the same tokens" if same else "other tokens", "the same tokens", same)
    yield from _score_checks(expected, exported.score_ids(rows), _LIMITS[kind])


def _score_checks(expected: Sequence[float], found: Sequence[float], limit: float) -> Iterator[Check]:
    """Largest difference against the spread of the scores, and pairs of conversations that change places."""
    spread = _spread(expected)
    worst = max(abs(a - b) for a, b in zip(expected, found, strict=True))
    finite = all(map(math.isfinite, found))
    yield Check(
        "scores",
        f"{len(found)} conversations, at most {worst:.2g} apart ({worst / spread:.2%} of their spread)",
        f"{limit:.2%}",
        finite and worst <= limit * spread,
        "" if finite else "a score is no number",
    )
    swapped = sum(
        (expected[i] < expected[j]) != (found[i] < found[j]) and abs(expected[i] - expected[j]) > limit * spread
        for i in range(len(found))
        for j in range(i)
    )
    yield Check("ranking", f"{swapped} pairs change places", "0", not swapped)


def _spread(scores: Sequence[float]) -> float:
    """Standard deviation; never 0, so that equal scores can be compared."""
    mean = sum(scores) / len(scores)
    return max(1e-6, math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores)))


def _sequences(model: RewardModel, heldout: Path | None, samples: int) -> list[list[int]]:
    """Held-out and built-in conversations as the model reads them; those it can't be given are left out."""
    rows: list[list[int]] = []
    for conversation in [*_held_out(heldout)[: 2 * samples], *_built_in()]:
        try:
            rows.append(model.ids(conversation))
        except DatasetError:
            continue
    if not rows:
        raise ModelError("There is no conversation that the reward model can score")
    return rows


def _held_out(path: Path | None) -> list[Conversation]:
    """Each held-out prompt with its chosen answer, then with its rejected one."""
    found = []
    for number, row in enumerate(read_heldout(path), start=1):
        found += [_conversation(row[side], f"{path}:{number}") for side in ("messages", "rejected") if row.get(side)]
    return found


def _built_in() -> list[Conversation]:
    answer = {"role": "assistant", "content": "I can't tell."}
    return [_conversation([*prompt, answer], f"built-in ({name})") for name, prompt in BUILT_IN.items()]


def _conversation(messages: list[dict[str, Any]], place: str) -> Conversation:
    return load_format("messages").convert({"messages": messages}, place)
