"""The run directory: everything a run leaves behind, and all that export, verify and chat need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import ModelError, TrainingError
from fastft.files import at_home, sha256_of, write_json, write_text
from fastft.heartbeat import is_trained_now, last_beat, last_state
from fastft.history import METRICS

if TYPE_CHECKING:
    from fastft.verification import Verification


@dataclass(frozen=True, slots=True)
class Run:
    """One training run on disk.

    `recipe.yaml` exists from the first moment, `manifest.json` only once training is done and the adapter is whole.
    """

    directory: Path

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def recipe_path(self) -> Path:
        return self.directory / "recipe.yaml"

    @property
    def start_path(self) -> Path:
        return self.directory / "start.json"

    @property
    def manifest_path(self) -> Path:
        return self.directory / "manifest.json"

    @property
    def audit_path(self) -> Path:
        return self.directory / "audit.json"

    @property
    def metrics_path(self) -> Path:
        return self.directory / METRICS

    @property
    def log_path(self) -> Path:
        return self.directory / "train.log"

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.directory / "adapter"

    @property
    def initial_adapter(self) -> Path:
        """What the adapter started with, where its initialisation took that out of the base (PiSSA, OLoRA)."""
        return self.directory / "initial_adapter"

    @property
    def model_dir(self) -> Path:
        """The fine-tuned weights of a full fine-tune, which has no adapter."""
        return self.directory / "model"

    @property
    def exports(self) -> Path:
        return self.directory / "exports"

    @property
    def heldout_path(self) -> Path:
        return self.directory / "heldout.jsonl"

    @property
    def finished(self) -> bool:
        return self.manifest_path.is_file()

    @property
    def complete(self) -> bool:
        """Whether the process that trained it also came to the end of its exports."""
        return self.finished and last_state(self.directory) in (None, "finished")

    @classmethod
    def create(cls, output_dir: Path, recipe_yaml: str) -> Run:
        """Make a new run directory at `output_dir`, or at the first free `output_dir-2`, `-3`, …

        An empty folder counts as free; nothing that exists is touched.
        """
        for directory in _candidates(at_home(output_dir).absolute()):
            if _take(directory):
                run = cls(directory)
                write_text(run.recipe_path, recipe_yaml)
                return run
        raise AssertionError("the candidates never end")

    @classmethod
    def next_directory(cls, output_dir: Path) -> Path:
        """The directory that `create` would make now."""
        candidates = _candidates(at_home(output_dir).absolute())
        return next(directory for directory in candidates if _is_free(directory))

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """The run in the folder `path`. Raises ModelError if that is no run directory, or has a link that leads out."""
        directory = at_home(path).absolute()
        if not (directory / "recipe.yaml").is_file():
            why = "it holds no recipe.yaml" if directory.is_dir() else "there is no such folder"
            why = "it is a file" if directory.is_file() else why
            if (directory / "export.json").is_file() and directory.parent.name == "exports":
                above = directory.parents[1]
                raise ModelError(f"{directory} is an export, not the run it belongs to", hint=f"Name that: {above}")
            raise ModelError(f"{directory} is no run directory: {why}", hint=_runs_nearby(directory))
        return cls(directory)._without_ways_out()

    @classmethod
    def unfinished(cls, output_dir: Path) -> Run:
        """The newest run of `output_dir` (or its numbered siblings) whose training or exports did not finish."""
        found = cls.all_unfinished(output_dir)
        if not found:
            finished = f"the run at {output_dir} is finished" if cls(output_dir).finished else ""
            raise TrainingError(
                f"There is nothing to resume: {finished or f'no unfinished run at {output_dir}'}",
                hint="Without --resume a new run begins; or name the run: fastft train RUN_DIRECTORY --resume.",
            )
        return found[0]

    @classmethod
    def all_unfinished(cls, output_dir: Path) -> list[Run]:
        """Those of `output_dir` and its numbered siblings whose training or exports did not finish, newest first."""
        found = [run for run in cls._siblings(output_dir.absolute()) if not run.complete]
        return found[::-1]

    @classmethod
    def _siblings(cls, output_dir: Path) -> Iterator[Run]:
        for directory in _candidates(output_dir):
            if not directory.exists():
                return
            if (directory / "recipe.yaml").is_file():
                yield cls(directory)._without_ways_out()

    def _without_ways_out(self) -> Run:
        """Itself. Raises ModelError if one of its files, folders or exports is a link to elsewhere."""
        from fastft.reading import require_links_inside

        require_links_inside(self.directory, (self.exports.name,), ModelError)
        return self

    def manifest(self) -> dict[str, Any]:
        """The manifest. Raises ModelError if training has not finished, or if the file is damaged."""
        if not self.finished:
            now = is_trained_now(self.directory)
            raise ModelError(
                f"The run {self.directory} has not finished training: it has no manifest.json",
                hint=f"It is being trained now: {last_beat(self.directory)}."
                if now
                else f"Go on with it: fastft train {self.directory} --resume",
            )
        from fastft.run_files import read_manifest

        return read_manifest(self.manifest_path)

    def trained_manifest(self) -> dict[str, Any]:
        """The manifest, once the trained files are found to be those it tells of.

        Raises ModelError if training has not finished, or if a file of the adapter (or the model) was changed since.
        """
        manifest = self.manifest()
        for name, digest in manifest["files"].items():
            path = self.directory / name
            if "/" not in name or (path.is_file() and sha256_of(path) == digest):
                continue
            what = "was changed since the training" if path.is_file() else "is gone"
            raise ModelError(
                f"{path} {what}: it is not the file that manifest.json tells of",
                hint="Put it back as training wrote it, or train again.",
            )
        return manifest

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        write_json(self.manifest_path, manifest)

    def metrics(self) -> list[dict[str, Any]]:
        """Every logged point: step, loss, learning_rate, tokens and so on. Raises ModelError if the file is damaged."""
        from fastft.reading import read_json_lines

        return read_json_lines(self.metrics_path, ModelError) if self.metrics_path.is_file() else []

    def export(
        self, formats: Sequence[str] = (), quantization_method: Sequence[str] | str = (), **options: Any
    ) -> list[Path]:
        """Export and verify; empty arguments mean what the run's recipe says. See `fastft.export`."""
        from fastft.exporting import export

        return export(self, formats, quantization_method, **options)

    def verify(self) -> list[Verification]:
        """Compare every export with the trained model again. See `fastft.verify`."""
        from fastft.verification import verify

        return verify(self)

    def chat(self, message: str, **options: Any) -> str:
        """The trained model's answer to one message. For a conversation use `fastft.chat.ChatSession`."""
        from fastft.chat import ChatSession

        return ChatSession(self.directory, **options).ask(message)


def _candidates(output_dir: Path) -> Iterator[Path]:
    yield output_dir
    number = 2
    while True:
        yield output_dir.with_name(f"{output_dir.name}-{number}")
        number += 1


def _take(directory: Path) -> bool:
    """Make `directory` ours. mkdir decides between two processes that want the same name."""
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        return _is_free(directory)
    except OSError as error:
        raise TrainingError(
            f"The run directory {directory} can't be made: {error.strerror}",
            hint="Choose another place with --output-dir.",
        ) from error
    return True


def _is_free(directory: Path) -> bool:
    return not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))


def _runs_nearby(directory: Path) -> str:
    parent = directory if directory.is_dir() else directory.parent
    runs = sorted(path.parent.name for path in parent.glob("*/recipe.yaml")) if parent.is_dir() else []
    return f"Runs in {parent}: {', '.join(runs[:8])}." if runs else "Train one first: fastft train RECIPE."
