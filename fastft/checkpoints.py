"""Checkpoints that are whole or not there: written beside their place, hashed, made durable, then renamed.

A checkpoint is whole if its manifest, written last, names its files with their sizes and hashes, and they are so.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastft.device import free_disk
from fastft.disk_space import LEFT_FREE, in_words
from fastft.errors import TrainingError
from fastft.files import make_durable, sha256_of, write_json
from fastft.open_ends import FILE, best_of
from fastft.reading import read_json

MANIFEST = "fastft_checkpoint.json"
_PREFIX = "checkpoint-"
_STAGING = ".partial"
# What training can't go on without. transformers' names, and ours.
_NEEDED = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", FILE)


def whole_checkpoint(
    folder: Path, tell: Callable[[str], None] = lambda _: None, *, before: float = math.inf
) -> Path | None:
    """The newest whole checkpoint in `folder` of a step below `before`, or None. `tell` is told of damaged ones.

    One that names another as the best so far needs that one whole, too: its weights may be the run's in the end.
    """
    for step, checkpoint in _newest_first(folder):
        if step >= before:
            continue
        reason = why_damaged(checkpoint, step) or _why_best_damaged(checkpoint)
        if reason is None:
            return checkpoint
        tell(f"{checkpoint} is damaged and passed over: {reason}")
    return None


def step_of(checkpoint: Path | None) -> int:
    """The step after which `checkpoint` was written; 0 for none."""
    return int(checkpoint.name.removeprefix(_PREFIX)) if checkpoint else 0


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint in `folder`, by its name alone; 0 if there is none."""
    return next((step for step, _ in _newest_first(folder)), 0)


def why_damaged(checkpoint: Path, step: int) -> str | None:
    """What is wrong with a checkpoint, or None if every file is as it was written."""
    try:
        if not (checkpoint / MANIFEST).exists():
            return f"{MANIFEST} is missing"
        manifest = read_json(checkpoint / MANIFEST, TrainingError)
        files = {str(name): (int(facts["bytes"]), str(facts["sha256"])) for name, facts in manifest["files"].items()}
        told = int(manifest["step"])
    except TrainingError as error:
        return f"{MANIFEST} can't be read: {error.message.partition('be read: ')[2] or error.message}"
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        return f"{MANIFEST} isn't as it was written: {type(error).__name__}"
    if told != step:
        return f"{MANIFEST} is that of step {told}"
    if missing := [name for name in _NEEDED if name not in files]:
        return f"{MANIFEST} doesn't name {missing[0]}"
    there = {str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if not path.is_dir()}
    if strangers := sorted(there - {*files, MANIFEST}):
        return f"it holds {strangers[0]}, which {MANIFEST} doesn't name"
    return next((why for name, facts in files.items() if (why := _why_changed(checkpoint, name, *facts))), None)


def _why_best_damaged(checkpoint: Path) -> str | None:
    """What is wrong with the best checkpoint that a whole `checkpoint` names, or None."""
    try:
        best = best_of(checkpoint)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        return f"trainer_state.json can't be read: {type(error).__name__}"
    if best is None or best == checkpoint.name:
        return None
    beside = next((path for _, path in _newest_first(checkpoint.parent) if path.name == best), None)
    reason = why_damaged(beside, step_of(beside)) if beside else "it is missing"
    return f"the best one of the run by then was {best}, and {reason}" if reason else None


def _why_changed(checkpoint: Path, name: str, size: int, digest: str) -> str | None:
    path = checkpoint / name
    try:
        if not path.resolve().is_relative_to(checkpoint.resolve()):
            return f"{MANIFEST} names {name}, which lies outside"
        if not path.is_file():
            return f"{name} is missing"
    except (OSError, ValueError, RuntimeError):  # too long a name, a NUL in it, links that lead in a circle
        return f"{MANIFEST} names {name[:80]!r}, which is no file"
    if (found := path.stat().st_size) != size:
        return f"{name} has {found:,} bytes and was written with {size:,}"
    return None if sha256_of(path) == digest else f"{name} was changed since it was written"


def save_whole(trainer: Any, keep: Callable[[Path], None], goes_on_from: Path | None = None) -> None:
    """Let `trainer` write its checkpoints so, and delete old ones only once the new one is whole.

    `keep` adds its own to the folder of each. The run's logs are made durable with it: what they tell of the steps
    before isn't written again. `goes_on_from` is the checkpoint that training goes on from.
    transformers writes a checkpoint in its place, file by file, and deletes others by the clock's order.
    """
    folder, save, place = Path(trainer.args.output_dir), trainer._save_checkpoint, trainer._get_output_dir
    limit, trainer.args.save_total_limit = trainer.args.save_total_limit, None
    staging = folder / _STAGING
    trainer.create_model_card = lambda *_, **__: None  # TRL's, of each checkpoint
    clear(folder, limit, goes_on_from)

    def save_checkpoint(model: Any, trial: Any) -> None:
        try:
            write_checkpoint(model, trial)
        except Exception:  # of a full disk: what was begun would only take more of it
            shutil.rmtree(staging, ignore_errors=True)
            raise

    def write_checkpoint(model: Any, trial: Any) -> None:
        require_numbers(trainer, f"after step {trainer.state.global_step}")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        require_room(trainer, folder)
        trainer._get_output_dir = lambda *_, **__: str(staging)
        try:
            save(model, trial)
        finally:
            trainer._get_output_dir = place
        made = staging / f"{_PREFIX}{trainer.state.global_step}"
        _name_best(trainer.state, staging, folder, made)
        keep(made)
        (made / "README.md").unlink(missing_ok=True)  # PEFT's card, with nothing of the run in it
        for log in folder.parent.glob("*.jsonl"):
            make_durable(log)
        seal(made, trainer.state.global_step)
        final = folder / made.name
        shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step
        made.replace(final)
        make_durable(folder)
        shutil.rmtree(staging, ignore_errors=True)
        rotate(folder, limit, trainer.state.best_model_checkpoint, trainer.state.global_step)

    trainer._save_checkpoint = save_checkpoint


def clear(folder: Path, limit: int | None, goes_on_from: Path | None) -> None:
    """Do what a process had no time for that was killed after it put `goes_on_from` in its place, or before it could.

    There may be no further checkpoint that would do it.
    """
    shutil.rmtree(folder / _STAGING, ignore_errors=True)
    if goes_on_from is not None:
        rotate(folder, limit, best_of(goes_on_from), step_of(goes_on_from))


def require_numbers(trainer: Any, when: str) -> None:
    """Raises TrainingError if weights in training hold what is no number: no step can be learned from any more."""
    named = [(name, weight.detach()) for name, weight in trainer.model.named_parameters() if weight.requires_grad]
    name = next((name for name, weight in named if not bool(weight.isfinite().all())), None)
    if name is not None:
        raise TrainingError(
            f"{when}: weights are no numbers any more, first {name}; no checkpoint has such. A step before moved them "
            "too far, most likely by too high a learning_rate: lower it, in a new run"
        )


def require_room(trainer: Any, folder: Path) -> None:
    """Raises TrainingError if the disk has no room for one more checkpoint, before anything of it is written.

    As large as the last one; before there is one, the trained weights with two moments in 32 bits.
    """
    last = next((path for _, path in _newest_first(folder)), None)
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    needed = sum(path.stat().st_size for path in last.rglob("*") if path.is_file()) if last else 12 * trained
    if (free := free_disk(folder)) < needed + LEFT_FREE:
        raise TrainingError(
            f"a checkpoint takes about {in_words(needed)} beside {in_words(LEFT_FREE)} that stay free for logs, and "
            f"{in_words(free)} are free at {folder}: nothing was written; make room and go on"
        )


def _name_best(state: Any, staging: Path, folder: Path, made: Path) -> None:
    """The best checkpoint by where it will lie, in the state and in the file of it."""
    best = state.best_model_checkpoint
    if best is not None and Path(best).is_relative_to(staging):
        state.best_model_checkpoint = str(folder / Path(best).name)
        state.save_to_json(str(made / "trainer_state.json"))


def seal(checkpoint: Path, step: int) -> None:
    """Make every file durable and write the manifest, last."""
    files = {}
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST):
        make_durable(path)
        files[str(path.relative_to(checkpoint))] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    write_json(checkpoint / MANIFEST, {"fastft_checkpoint": 1, "step": step, "files": files})
    make_durable(checkpoint)


def rotate(folder: Path, limit: int | None, best: str | None, reached: float = math.inf) -> None:
    """Delete the oldest, by step, beyond `limit`: never the newest whole one, and never the best.

    Those beyond the step `reached` were passed over when the run went on, and are no reason to delete others.
    """
    if limit is None or limit <= 0:
        return
    newest_first = [(step, checkpoint) for step, checkpoint in _newest_first(folder) if step <= reached]
    kept = {checkpoint for _, checkpoint in newest_first[:limit]}
    if not any(why_damaged(checkpoint, step) is None for step, checkpoint in newest_first[:limit]):
        return
    for _, checkpoint in newest_first:
        if checkpoint not in kept and (best is None or checkpoint.name != Path(best).name):
            shutil.rmtree(checkpoint, ignore_errors=True)


def _newest_first(folder: Path) -> Iterator[tuple[int, Path]]:
    numbered = [
        (int(path.name.removeprefix(_PREFIX)), path)
        for path in folder.glob(f"{_PREFIX}*")
        if path.name.removeprefix(_PREFIX).isdigit() and path.is_dir()
    ]
    yield from sorted(numbered, reverse=True)
