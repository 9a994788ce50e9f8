"""What of a recipe may be another when its run goes on: all that doesn't change what the steps so far have learned."""

from __future__ import annotations

import getpass
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import yaml

from fastft.checkpoints import step_of, whole_checkpoint
from fastft.errors import Fault, RecipeError
from fastft.files import sha256_of, write_text
from fastft.reading import parse_yaml, read_yaml
from fastft.recipe import yaml_text
from fastft.run_files import read_start, write_start

if TYPE_CHECKING:
    from fastft.recipe.schema import Recipe
    from fastft.run import Run

_SECTIONS = ("export.", "evaluation.", "bad_steps.")  # of what is asked, made and left out, not of what was learned
_LONGER = ("training.max_steps", "training.num_train_epochs")
_BESIDE = (
    "save_steps", "save_total_limit", "logging_steps", "report_to", "run_name", "project", "trackio_space_id",
    "disable_tqdm", "log_level",
)  # fmt: skip
_MAY = (
    "export, evaluation, bad_steps, save_steps, save_total_limit, logging_steps, report_to, the folders of files, and "
    "more max_steps or epochs may"
)
_NOTHING = "nothing"
_PUT_BACK = "Put it back as the run wrote it, or begin a new run: --new."
# Where files lie that are known again by what they hold: examples, labels and base by their hashes.
_PLACES = ("data.path", "data.eval_split", "data.chat_template", "callbacks", "rewards", "model.model_name")


@dataclass(frozen=True, slots=True)
class Change:
    """One key of a recipe, what it was when the run began (or was changed last) and what it is now."""

    key: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key} {_said(self.was)} → {_said(self.now)}"

    @property
    def lengthens(self) -> bool:
        return self.key in _LONGER and _number(self.was) is not None and _number(self.now) is not None

    @property
    def moves(self) -> bool:
        """Whether only the folder is another, in which files of the same names lie now."""
        return self.key in _PLACES and without_folders(self.was) == without_folders(self.now)

    def why_not(self) -> str | None:
        """Why the run can't go on with it, or None if it can."""
        if self.key.startswith(_SECTIONS) or self.moves:
            return None
        if self.lengthens:
            return None if float(self.now) > float(self.was) else "a run can be made longer, not shorter"
        if self.key.removeprefix("training.") in _BESIDE and self.now is not None:
            return None
        return "what was learned so far was learned otherwise"


def without_folders(value: Any) -> Any:
    """`value` with the names alone of the absolute paths in it, but for runs that reward: those aren't hashed."""
    if isinstance(value, Mapping):
        return {key: item if key == "run" else without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    return value.rpartition("/")[2] if isinstance(value, str) and value.startswith("/") else value


def _said(value: Any) -> str:
    return _NOTHING if value is None else repr(value)


def _number(value: Any) -> float | None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return float(value) if fits else None


def changes_of(run: Run, recipe: Recipe) -> tuple[Change, ...]:
    """Each key whose value isn't that of the run's recipe. Raises RecipeError if that is no recipe any more.

    What a recipe leaves out was chosen when the run began: a value given now is compared with that.
    """
    chosen = {f"training.{key}": value for key, value in begun_with(run).items()}
    said, now = _flat(_recipe_of(run)), _flat(yaml.safe_load(recipe.to_yaml()))
    keys = sorted((said.keys() | now.keys()) - {"output_dir"})  # the run was found there
    was = {key: said.get(key, chosen.get(key)) for key in keys}
    return tuple(Change(key, was[key], now.get(key)) for key in keys if was[key] != now.get(key))


def _recipe_of(run: Run) -> dict[str, Any]:
    """The recipe that training goes by. Once it has begun start.json has it, whatever was made of recipe.yaml since."""
    kept = read_start(run.start_path).get("recipe") if run.start_path.is_file() else None
    if kept is None:
        return read_yaml(run.recipe_path, RecipeError, _PUT_BACK)
    return parse_yaml(kept, f"{run.start_path}: recipe", RecipeError, _PUT_BACK)


def without_place(recipe: Recipe) -> str:
    """`recipe` as YAML without output_dir: wherever the run is moved, it is found there."""
    return yaml_text.dump({key: value for key, value in recipe.as_dict().items() if key != "output_dir"})


def begun_with(run: Run) -> Mapping[str, Any]:
    """The training arguments in start.json; none before training has begun."""
    if not run.start_path.is_file():
        return {}
    return read_start(run.start_path)["arguments"]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        flat |= _flat(item, f"{name}.") if isinstance(item, Mapping) else {name: item}
    return flat


def require_may(run: Run, changes: Sequence[Change]) -> None:
    """Raises RecipeError that names each change a run can't go on with, with both values."""
    trained = [str(change) for change in changes if change.key.startswith("training.")]
    if run.finished and trained:
        raise RecipeError(
            f"the training of {run.directory} is finished, so {', '.join(trained)} can't be applied",
            hint=f"Train on from it in a new run: lora.adapter_name_or_path={run.directory} (its steps then begin with "
            "a fresh optimizer and schedule).",
        )
    go_on = f"Go on with the run's own recipe: fastft train {run.directory} --resume, where"
    if is_edited(run):
        go_on = f"{run.recipe_path} was edited since training began. Put the former values back, where"
    refused = [(change, why) for change in changes if (why := change.why_not())]
    faults = [Fault(c.key, f"was {_said(c.was)} and is {_said(c.now)}", "", why) for c, why in refused]
    if faults:
        raise RecipeError(
            f"the recipe is not the one {run.directory} began with:",
            faults=faults,
            hint=f"{go_on} {_MAY} be given otherwise; or begin a new run: --new.",
        )


def keep_changes(run: Run, recipe: Recipe, changes: Sequence[Change]) -> None:
    """Make `recipe` the run's own: the former is kept beside it, and start.json says what was changed by whom.

    A run goes by its recipe.yaml, so that is replaced first.
    """
    if not changes:
        return
    number, place = 1 + sum(1 for _ in run.directory.glob("former_recipe-*.yaml")), str(run.directory)
    former = run.directory / f"former_recipe-{number}.yaml"
    if is_edited(run):
        write_text(former, yaml_text.dump({"output_dir": place, **_recipe_of(run)}))
    else:
        place = read_yaml(run.recipe_path, RecipeError, _PUT_BACK).get("output_dir", place)
        shutil.copyfile(run.recipe_path, former)
    write_text(run.recipe_path, recipe.model_copy(update={"output_dir": place}).to_yaml())
    _note(run, recipe, changes)
    if run.finished:  # whose manifest has the hashes of both files
        manifest = run.manifest()
        manifest["files"] |= {path.name: sha256_of(path) for path in (run.recipe_path, run.start_path)}
        run.write_manifest(manifest)


def is_edited(run: Run) -> bool:
    """Whether recipe.yaml isn't what training goes by. One that can't be read isn't looked at here."""
    try:
        begun, now = (
            _flat({**each, "output_dir": ""}) for each in (_recipe_of(run), read_yaml(run.recipe_path, RecipeError))
        )
        return begun != now
    except RecipeError:
        return False


def _note(run: Run, recipe: Recipe, changes: Sequence[Change]) -> None:
    if not run.start_path.is_file():
        return  # nothing was trained yet, so there is nothing that was trained otherwise
    start = read_start(run.start_path)
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": f"{_user()}@{platform.node()}",
        "step": step_of(whole_checkpoint(run.checkpoints)),
        "changes": {change.key: {"was": change.was, "now": change.now} for change in changes},
    }
    start.setdefault("changed", []).append(entry)
    start["recipe"] = without_place(recipe)
    start["arguments"] = _with(start["arguments"], recipe.as_dict())
    write_start(run.start_path, start)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in many containers
        return "unknown"


def with_changes(arguments: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """The arguments that a run began with, and what its recipe says now of those that may be others."""
    return _with(arguments, _recipe_of(run))


def _with(arguments: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    given = recipe.get("training") or {}
    return {**arguments, **{key: given[key] for key in _free(given)}}


def _free(given: Mapping[str, Any]) -> Iterator[str]:
    longer = {key.removeprefix("training.") for key in _LONGER}
    return (key for key in given if key in longer or key in _BESIDE)


def told(changes: Sequence[Change]) -> str:
    """One line for people."""
    listed = ", ".join(str(change) for change in changes)
    scheduled = any(change.lengthens for change in changes)
    more = "; the learning rate follows the schedule of the longer run from here on" if scheduled else ""
    return f"changed: {listed}{more}"
