"""Looking at the model once it is loaded, and once more when its first real batch has run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.text import Text

from fastft.errors import TrainingError
from fastft.fastpath.attention import attention_of, compute_dtype
from fastft.fastpath.batch import Batch, read_batch
from fastft.fastpath.judged import (
    Asked,
    lost_by_recomputing,
    lost_in_batch,
    lost_in_layers,
    lost_in_trainer,
)
from fastft.fastpath.layers import Layers, count_layers, recomputing_now
from fastft.fastpath.lost import Lost
from fastft.fastpath.told import summary
from fastft.files import write_json
from fastft.reading import read_json
from fastft.run import Run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastft.recipe.schema import Recipe

_LOG = logging.getLogger("fastft")
_FILE = "fast_path.json"
T = TypeVar("T")


def watch_fast_path(
    trainer: Any, recipe: Recipe, arguments: Mapping[str, Any], run: Run, console: Console
) -> FastPathAudit:
    """Tell now what the model has lost, and the rest after its first batch; all of it goes into fast_path.json."""
    audit = FastPathAudit(trainer, Asked.of(recipe, arguments), run, console)
    audit.look_at_model()
    audit.wait_for_batch()
    return audit


def read_fast_path(run: Run) -> dict[str, Any] | None:
    """What the audit of a run found, None where there was none."""
    path = run.directory / _FILE
    return read_json(path, TrainingError) if path.is_file() else None


class FastPathAudit:
    """Probes that can't break training: one that fails says "unknown", and the log why."""

    def __init__(self, trainer: Any, asked: Asked, run: Run, console: Console) -> None:
        self.trainer, self.asked, self.run, self.console = trainer, asked, run, console
        self.layers: Layers | None = None
        self.batch: Batch | None = None
        self.attention: str | None = None
        self.compute: Any = None
        self.lost: list[Lost] = []
        self.unknown: list[str] = []
        self._hooks: list[Any] = []

    def look_at_model(self) -> None:
        self.layers = self._probe("layers", lambda: count_layers(self.trainer.model))
        if self.layers is not None:
            layers = self.layers
            self._tell(self._probe("judging the layers", lambda: list(lost_in_layers(layers, self.asked))))
        self._tell(self._probe("trainer", lambda: list(lost_in_trainer(self.trainer, self.asked))))
        self._write()

    def wait_for_batch(self) -> None:
        """A hook on the model's forward; it takes itself off once a batch that is learned from has run."""
        hook = self._probe("hook", lambda: self.trainer.model.register_forward_hook(self._seen, with_kwargs=True))
        self._hooks = [hook] if hook is not None else []

    def _seen(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        import torch

        if not (model.training and torch.is_grad_enabled()):
            return
        while self._hooks:
            self._hooks.pop().remove()
        self._probe("first batch", lambda: self._look_at_batch(args, kwargs, output))
        self._write()

    def _look_at_batch(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        model = self.trainer.model
        given = {**({"input_ids": args[0]} if args else {}), **kwargs}
        vocabulary = int(getattr(model.config.get_text_config(), "vocab_size", 0))
        self.batch = self._probe("batch", lambda: read_batch(given, output, vocabulary))
        self.compute = self._probe("dtype", lambda: compute_dtype(self.trainer))
        found = self._probe("attention", lambda: attention_of(model, self.batch, self.compute))
        self.attention, slower = found if found is not None else (None, None)
        lost = [slower] if slower is not None else []
        if (layers := self.layers) is not None:
            self.layers = self._probe("recomputation", lambda: recomputing_now(layers, model)) or layers
            lost += lost_by_recomputing(self.layers, self.asked)
        if (batch := self.batch) is not None:
            lost += self._probe("judging the batch", lambda: list(lost_in_batch(batch, self.asked, self.trainer))) or []
        self.console.print(Text.assemble(("fast path ", "bold cyan"), self.summary()))
        self._tell(lost)

    def summary(self) -> str:
        known = self.layers, self.batch, self.attention, self.unknown
        return summary(*known, learns_text=self.asked.learns_text)

    def as_dict(self) -> dict[str, Any]:
        """For the manifest: what is on in one sentence and in numbers, what is lost, what couldn't be found out."""
        from dataclasses import asdict

        return {
            "on": self.summary(),
            "lost": [found.as_dict() for found in self.lost],
            "unknown": list(self.unknown),
            "layers": asdict(self.layers) if self.layers is not None else None,
            "attention": self.attention,
            "compute": str(self.compute).removeprefix("torch.") if self.compute is not None else None,
            "batch": asdict(self.batch) if self.batch is not None else None,
        }

    def _tell(self, lost: list[Lost] | None) -> None:
        for found in lost or ():
            self.lost.append(found)
            self.console.print(Text(f"! {found}", style="yellow"))

    def _write(self) -> None:
        self._probe("writing", lambda: write_json(self.run.directory / _FILE, self.as_dict()))

    def _probe(self, what: str, look: Callable[[], T]) -> T | None:
        """What `look` finds. Whatever it raises is no reason to end a training that runs: it is logged."""
        try:
            return look()
        except Exception:  # noqa: BLE001
            _LOG.warning("fast path: %s couldn't be looked at", what, exc_info=True)
            self.unknown.append(what)
            return None
