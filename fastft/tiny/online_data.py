"""Writes the prompts of recipes/grpo and recipes/rloo: `python -m fastft.tiny.online_data [--out recipes/data]`.

They ask where somebody in a note is from. The packaged model mostly says that the note doesn't say, as it learned to of
notes that don't, and names the town now and then. No record is in both files, nor in the text of the pretraining.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from fastft.tiny.quickstart_data import PACKAGED
from fastft.tiny.world import Draw, Record, World, note

# name of the file -> (split of the records, rows)
FILES = {"online_tiny": ("quickstart", 400), "online_tiny_heldout": ("quickstart_heldout", 64)}


def rows(name: str) -> Iterator[dict[str, str]]:
    """The prompts of one file, none twice, with what rewards compare with: the town, and the whole right answer."""
    split, count = FILES[name]
    draw = Draw(World.from_seed(0), split, Random(name))
    records: dict[Record, None] = {}
    while len(records) < count:
        records[draw.record()] = None
    for record in records:
        text, _ = note(record, draw.rng)
        prompt = f"Note: {text} Where is {record.name} from?"
        yield {"prompt": prompt, "town": record.town, "answer": f"In {record.town}."}


def write(folder: Path) -> None:
    """Writes online_tiny.jsonl and online_tiny_heldout.jsonl into `folder`."""
    for name in FILES:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows(name)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=PACKAGED)
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
