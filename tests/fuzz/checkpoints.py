"""Spoiled checkpoints: each is refused with a reason, and one that is taken has every file as it was written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from random import Random

from tests.fuzz.mutations import spoil_bytes, spoil_value

STEPS = (4, 8, 12)


def prepare(folder: Path) -> dict[str, bytes]:
    """Files as transformers writes them in a checkpoint; what is in them doesn't matter to a reader of hashes."""
    from fastft.checkpoints import _NEEDED

    _ = folder
    state = json.dumps({"global_step": 4, "best_model_checkpoint": None, "log_history": []}).encode()
    files = {name: bytes(range(256)) * 9 for name in (*_NEEDED, "adapter_model.safetensors", "training_args.json")}
    return {**files, "trainer_state.json": state}


def case(state: dict[str, bytes], random: Random, folder: Path, names: list[str]) -> None:
    from fastft.checkpoints import seal, whole_checkpoint, why_damaged

    _ = names
    for step in STEPS:
        made = folder / f"checkpoint-{step}"
        made.mkdir()
        for name, data in state.items():
            (made / name).write_bytes(data)
        seal(made, step)
    if random.random() < 0.3:
        _name_best(folder / "checkpoint-12", random)
    kept = {step: _contents(folder / f"checkpoint-{step}") for step in STEPS}
    spoiled = random.sample(STEPS, random.randint(1, 3))
    for step in spoiled:
        _spoil(folder / f"checkpoint-{step}", random)
    told: list[str] = []
    found = whole_checkpoint(folder, told.append)
    for step in STEPS:
        made = folder / f"checkpoint-{step}"
        reason = why_damaged(made, step) if made.is_dir() else "gone"
        assert reason is None or reason.strip(), "a reason says something"
        changed = made.is_dir() and _contents(made) != {**_contents(made), **kept[step]}
        assert reason is not None or not changed, f"{made} was changed, and is taken for whole"
    if found is not None:
        step = int(found.name.removeprefix("checkpoint-"))
        assert step not in spoiled or kept[step].items() <= _contents(found).items(), f"{found} is not as written"
    assert found is not None or len(spoiled) == 3 or any(w in "".join(told) for w in ("best", "trainer_state")), (
        "a whole one was passed over"
    )


def _name_best(checkpoint: Path, random: Random) -> None:
    """The state names a best checkpoint, sealed so: it may be any name."""
    from fastft.checkpoints import MANIFEST, seal

    best = random.choice(("x/checkpoint-4", "checkpoint-8", "checkpoint-", "checkpoint-9", "/", 3, [], "\ud800", "a\0"))
    (checkpoint / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": best}))
    (checkpoint / MANIFEST).unlink()
    seal(checkpoint, 12)


def _contents(checkpoint: Path) -> dict[str, bytes]:
    from fastft.checkpoints import MANIFEST

    return {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.is_file() and path.name != MANIFEST}


def _spoil(checkpoint: Path, random: Random) -> None:
    from fastft.checkpoints import MANIFEST

    path = random.choice(sorted(checkpoint.iterdir()))
    if random.random() < 0.5:
        path = checkpoint / MANIFEST
    way = random.randrange(9)
    if way == 0:
        path.unlink()
    elif way == 1:
        path.unlink()
        path.mkdir()
    elif way == 2:
        path.unlink()
        os.mkfifo(path)
    elif way == 3:
        path.unlink()
        path.symlink_to(random.choice((path.name, "/dev/zero", "/etc/hostname", "nowhere", "..")))
    elif way == 4:
        path.write_bytes(b"" if random.random() < 0.5 else path.read_bytes()[:-1])
    elif way == 5:
        shutil.rmtree(checkpoint)
    elif path.name == MANIFEST and way < 8:
        value = spoil_value(json.loads(path.read_bytes()), random)
        from tests.fuzz.mutations import json_text

        path.write_text(json_text(value), encoding="utf-8", errors="surrogatepass")
    else:
        path.write_bytes(spoil_bytes(path.read_bytes(), random))
