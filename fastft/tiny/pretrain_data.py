"""Writes the data of recipes/pretrain: `python -m fastft.tiny.pretrain_data [--out recipes/data]`.

Texts of a kind that the packaged model has never read: pages of a market's ledger. The pages of the training file and
of the held-out file come from disjoint splits (`world.split_of`), so what is learned is the form, not a page.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random

from fastft.tiny.quickstart_data import PACKAGED
from fastft.tiny.world import Draw, World

PAGES = {"pretrain_tiny": 320, "pretrain_tiny_heldout": 40}


def page(draw: Draw) -> str:
    """A page of two to nine entries; the longer ones are longer than the recipe's sequences."""
    number, lines = draw.rng.randint(1, 99), []
    total = 0
    for record in (draw.record() for _ in range(draw.rng.randint(2, 9))):
        total += record.count
        lines.append(f"{record.name} ({record.town}): {record.count} {record.colour} {record.things}")
    return "\n".join([f"LEDGER, page {number}", *lines, f"Sum of the page: {total}"])


def pages(name: str, seed: int = 0) -> list[str]:
    """The texts of one file of PAGES."""
    split = "quickstart_heldout" if name.endswith("heldout") else "quickstart"
    draw = Draw(World.from_seed(0), split, Random(f"{name} {seed}"))
    return [page(draw) for _ in range(PAGES[name])]


def write(folder: Path) -> None:
    """Writes pretrain_tiny.jsonl and pretrain_tiny_heldout.jsonl into `folder`."""
    for name in PAGES:
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in pages(name)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=PACKAGED)
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
