"""The Python files a recipe names, rewards and callbacks: they run as whoever starts the training, so that is told."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.changes import without_folders
from fastft.errors import FastftError, TrainingError
from fastft.files import sha256_of, write_json
from fastft.reading import read_json
from fastft.rewards.function_files import split_name

if TYPE_CHECKING:
    from fastft.recipe.schema import Recipe
    from fastft.run import Run

_SHOWN = 12  # characters of a sha256 on the terminal; the run keeps all


def code_of(recipe: Recipe) -> dict[str, str]:
    """ "/path/file.py:name" -> sha256 of the file, for every reward and callback that is code."""
    named = [reward.function for reward in recipe.rewards if reward.function is not None]
    return {text: sha256_of(Path(split_name(text)[0])) for text in dict.fromkeys((*named, *recipe.callbacks))}


def code_warnings(recipe: Recipe) -> list[str]:
    """One line for `check`, where the recipe names code."""
    files = [f"{Path(text).name} (sha256 {digest[:_SHOWN]}…)" for text, digest in code_of(recipe).items()]
    return [f"this recipe runs code: {', '.join(files)}"] if files else []


def keep_code(run: Run, recipe: Recipe) -> list[str]:
    """Keep what code the run was trained with in code.json; what of it changed since the run began, a line each."""
    now, path = code_of(recipe), run.directory / "code.json"
    kept = _read(path)
    if now and (not kept or kept[-1] != now):
        write_json(path, [*kept, now])
    last = kept[-1] if kept else {}
    was = {without_folders(text): digest for text, digest in last.items()} | last  # a file may have been moved
    changed = [text for text, digest in now.items() if was.get(text, was.get(without_folders(text), digest)) != digest]
    return [f"{text} was changed since this run began; the steps from here on run it as it is now" for text in changed]


def described(error: BaseException, run: Run) -> str:
    """What `error` says on one line, its type, and its place in the recipe's own files if it has one there."""
    reason = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, FastftError):
        return reason
    place = place_in_own_code(error, run)
    return f"{type(error).__name__}: {reason}".removesuffix(": ") + (f" ({place})" if place else "")


def log_traceback(error: BaseException) -> None:
    """Into train.log, which is stderr while a run is trained; it leaves out secrets."""
    with suppress(MemoryError):
        traceback.print_exception(error, file=sys.stderr)


def place_in_own_code(error: BaseException, run: Run) -> str:
    """ "file.py:12 in on_step_end": where in a file of the run's recipe `error` arose, innermost; "" if in none."""
    kept = _read(run.directory / "code.json")
    files = {split_name(text)[0] for text in (kept[-1] if kept else {})}
    seen: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in seen:  # one that a library raised from ours, too
        for frame in reversed(traceback.extract_tb(each.__traceback__)):
            if frame.filename in files:
                return f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
        seen.append(each)
        each = each.__cause__ or each.__context__
    return ""


def _read(path: Path) -> list[dict[str, str]]:
    """code.json of a run; nothing without one. Raises TrainingError."""
    hint = "Put it back as training wrote it, or start a new run: --new."
    return read_json(path, TrainingError, hint, shape=list[dict[str, str]]) if path.is_file() else []


def code_facts(run: Run, recipe: Recipe) -> dict[str, Any]:
    """For the manifest: the code by file and sha256, oldest first where it was changed, and the model's own."""
    path = run.directory / "code.json"
    facts: dict[str, Any] = {"code": _read(path)} if path.is_file() else {}
    if recipe.model.trust_remote_code:
        facts["trust_remote_code"] = recipe.model.trust_remote_code
    return facts
