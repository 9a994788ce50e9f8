"""Writes the quickstart's data: `python -m fastft.tiny.quickstart_data [--out recipes/data]`.

A row turns a note into a JSON record, which the packaged model has never done. The records of the training file,
of the held-out file and of the pretraining text come from disjoint splits (`world.split_of`). One row in eight of
the training file is a chat of the kind the model knows, so that it does not forget how to talk.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random

from fastft.tiny.skills import conversation
from fastft.tiny.world import Draw, Messages, Record, World, note

ROWS = {"quickstart": 1400, "quickstart_heldout": 100}  # records of each split
CHATS = {"quickstart": 200, "quickstart_heldout": 0}
PACKAGED = Path(__file__).parent.parent.parent / "recipes" / "data"


def as_json(record: Record) -> str:
    fields = {"name": record.name, "town": record.town, "count": record.count}
    return json.dumps({**fields, "item": record.item, "color": record.colour})


def rows(split: str, seed: int = 0) -> list[Messages]:
    """The conversations of one split of ROWS, in random order: no record comes twice."""
    draw = Draw(World.from_seed(0), split, Random(f"{split} {seed}"))
    records: dict[Record, None] = {}
    while len(records) < ROWS[split]:
        records[draw.record()] = None
    known = Draw(draw.world, "train", draw.rng)
    found = [_row(record, draw.rng) for record in records]
    found += [conversation(known)[1] for _ in range(CHATS[split])]
    draw.rng.shuffle(found)
    return found


def _row(record: Record, rng: Random) -> Messages:
    text, _ = note(record, rng)
    return [
        {"role": "user", "content": f"Write as JSON: {text}"},
        {"role": "assistant", "content": as_json(record)},
    ]


def write(folder: Path) -> None:
    """Writes quickstart.jsonl and quickstart_heldout.jsonl into `folder`."""
    for split in ROWS:
        lines = [json.dumps({"messages": messages}, ensure_ascii=False) for messages in rows(split)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=PACKAGED)
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
