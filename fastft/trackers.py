"""Trackers a run reports to (`training.report_to`): whether they will let it in, and the recipe attached to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastft.files import at_home

if TYPE_CHECKING:
    from fastft.run import Run


@dataclass(frozen=True, slots=True)
class Login:
    """What lets a tracker in: a variable, or a file that holds a word; not needed where a variable says offline."""

    variable: str
    files: tuple[tuple[str, str], ...]
    command: str
    offline: tuple[str, tuple[str, ...]] = ("", ())


_LOGINS: Mapping[str, Login] = {
    "wandb": Login(
        "WANDB_API_KEY",
        (("~/.netrc", "wandb"), ("~/_netrc", "wandb"), ("~/.config/wandb/settings", "api_key")),
        "wandb login",
        ("WANDB_MODE", ("offline", "disabled", "dryrun")),
    ),
    "comet_ml": Login(
        "COMET_API_KEY", (("~/.comet.config", "api_key"),), "comet login", ("COMET_START_ONLINE", ("0", "false"))
    ),
    "swanlab": Login(
        "SWANLAB_API_KEY", (("~/.swanlab/.netrc", "swanlab"),), "swanlab login", ("SWANLAB_MODE", ("local", "offline"))
    ),
    "neptune": Login("NEPTUNE_API_TOKEN", (), "", ("NEPTUNE_MODE", ("offline", "debug"))),
    "clearml": Login(
        "CLEARML_API_ACCESS_KEY", (("~/clearml.conf", "access_key"),), "clearml-init", ("CLEARML_OFFLINE_MODE", ("1",))
    ),
}


def login_warnings(report_to: Any) -> list[str]:
    """For each tracker of `report_to` that wants a key and finds none here: what will happen, and what to do."""
    names = report_to if isinstance(report_to, list) else [report_to]
    warnings = []
    for name in names:
        login = _LOGINS.get(str(name))
        if login is None or _let_in(login):
            continue
        ways = [f"set {login.variable}"]
        ways += [f"run `{login.command}`"] if login.command else []
        ways += [f"set {login.offline[0]}={login.offline[1][0]}"] if login.offline[0] else []
        said = f"{', '.join(ways[:-1])} or {ways[-1]}" if len(ways) > 1 else ways[0]
        warnings.append(f"training.report_to is {name}, and no key for it is found here: {said}, or training will stop")
    return warnings


def _let_in(login: Login) -> bool:
    variable, values = login.offline
    if os.environ.get(login.variable) or (variable and os.environ.get(variable, "").lower() in values):
        return True
    for place, word in login.files:
        path = at_home(place)
        if path.is_file() and word in path.read_text(encoding="utf-8", errors="replace"):
            return True
    return False


def recipe_callback(trainer: Any, run: Run) -> Any:
    """A TrainerCallback that gives the recipe, as text, to the trackers that transformers has opened."""
    from transformers import TrainerCallback

    text = run.recipe_path.read_text(encoding="utf-8")

    class RecipeCallback(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            for callback in trainer.callback_handler.callbacks:
                attach = _ATTACHED.get(type(callback).__name__)
                if attach is not None:
                    attach(callback, text)

    return RecipeCallback()


def _to_tensorboard(callback: Any, text: str) -> None:
    if callback.tb_writer is not None:  # four spaces make Markdown show it as it is
        callback.tb_writer.add_text("recipe", "".join(f"    {line}\n" for line in text.splitlines()))


def _to_wandb(callback: Any, text: str) -> None:
    callback._wandb.config.update({"recipe": text}, allow_val_change=True)


def _to_trackio(callback: Any, text: str) -> None:
    callback._trackio.config.update({"recipe": text}, allow_val_change=True)


def _to_mlflow(callback: Any, text: str) -> None:
    callback._ml_flow.log_text(text, "recipe.yaml")


def _to_comet(callback: Any, text: str) -> None:
    if callback._experiment is not None:
        callback._experiment.log_asset_data(text, name="recipe.yaml")


# transformers' callbacks by name: importing their module imports every tracker that is installed.
_ATTACHED: Mapping[str, Any] = {
    "TensorBoardCallback": _to_tensorboard,
    "WandbCallback": _to_wandb,
    "TrackioCallback": _to_trackio,
    "MLflowCallback": _to_mlflow,
    "CometCallback": _to_comet,
}
