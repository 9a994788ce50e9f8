"""Writes the tiny preference data: `python -m fastft.tiny.preference_data [--out recipes/data]`.

Questions about the world, whose answer in one word is preferred to the whole sentence that the packaged model gives.
`preference_tiny*` has both answers in a row (DPO, ORPO, CPO, a reward model), `kto_tiny*` one answer and its label.
The questions of the training file and of the held-out file come from disjoint splits (`world.split_of`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from fastft.tiny.questions import FACTS
from fastft.tiny.quickstart_data import PACKAGED
from fastft.tiny.words import RESIDENTS, TOWNS
from fastft.tiny.world import Draw, World

QUESTIONS = {"train": 400, "heldout": 60}  # of each split of the world
_OF_TOWNS = ("made", "mayor")


class Choice(NamedTuple):
    """A question, the answer that is preferred, and the other one, which says the same."""

    question: str
    chosen: str
    rejected: str


def choices(split: str, seed: int = 0) -> list[Choice]:
    """The questions of one split of QUESTIONS, in random order; none comes twice."""
    draw = Draw(World.from_seed(0), split, Random(f"{split} {seed}"))
    found: dict[Choice, None] = {}
    while len(found) < QUESTIONS[split]:
        found[_choice(draw)] = None
    return list(found)


def _choice(draw: Draw) -> Choice:
    attribute, subject, wording = draw.one(_any_fact)
    value = draw.world.facts[attribute][subject]
    return Choice(wording.format(s=subject), value, FACTS[attribute][1].format(s=subject, v=value))


def _any_fact(rng: Random) -> tuple[str, str, str]:
    attribute = rng.choice(tuple(FACTS))
    return attribute, rng.choice(TOWNS if attribute in _OF_TOWNS else RESIDENTS), rng.choice(FACTS[attribute][0])


def paired(choice: Choice) -> Mapping[str, Any]:
    sides = {"chosen": choice.chosen, "rejected": choice.rejected}
    answers = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
    return {"prompt": [{"role": "user", "content": choice.question}], **answers}


def judged(choice: Choice, wanted: bool) -> Mapping[str, Any]:
    contents = {"user": choice.question, "assistant": choice.chosen if wanted else choice.rejected}
    messages = [{"role": role, "content": content} for role, content in contents.items()]
    return {"messages": messages, "label": wanted}


def write(folder: Path) -> None:
    """Writes the four files into `folder`. Every other judged answer is a wanted one."""
    for split in QUESTIONS:
        drawn, ending = choices(split), "" if split == "train" else f"_{split}"
        _write(folder / f"preference_tiny{ending}.jsonl", [paired(choice) for choice in drawn])
        rows = [judged(choice, number % 2 == 0) for number, choice in enumerate(drawn)]
        _write(folder / f"kto_tiny{ending}.jsonl", rows)


def _write(path: Path, rows: list[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=PACKAGED)
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
