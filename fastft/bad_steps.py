"""Steps that must not be learned from: a loss or gradient that is no number, a spike, nothing supervised.

They are found before the optimizer moves a weight. Training stops there, or goes on without the step, as the recipe
says; the step's batch is kept and its rows are named.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from fastft.checkpoints import require_numbers
from fastft.data.conversation import Example
from fastft.errors import TrainingError
from fastft.lines import append_lines, keep_until

if TYPE_CHECKING:
    from fastft.recipe.bad_steps_section import BadStepsSection

FOLDER = "bad_batches"
LIST = "steps.jsonl"
_NAMED = 5  # rows named in a message
_WINDOW = 64  # finite losses that a spike is judged by
_LEAST = 16  # of them, before which nothing is called a spike
_OVER = 1.0  # nats above the median that a spike has at least
_KEPT = 20  # batches of spikes that are only told
# Under these a checkpoint's trainer_state.json holds the window; how many were skipped, in all and in a row, and
# whether a loss since the last log was a number.
_STATE, _SKIPPED = "fastft_losses", "fastft_skipped_steps"


@dataclass(slots=True)
class BadSteps:
    """Looks at a trainer's steps. `examples` are the training rows, in any order; batches are kept in `folder`."""

    section: BadStepsSection
    examples: Sequence[Example]
    folder: Path
    tell: Callable[[str], None]
    skipped: int = 0
    _in_a_row: int = 0
    _measured: bool = False  # a loss since the last log was a number
    _fed: list[dict[str, Any]] = field(default_factory=list)
    _losses: list[Any] = field(default_factory=list)
    _sums: bool = False  # the micro-batches' losses add up to the step's, rather than average
    _norm: Any = None
    _window: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def attach(self, trainer: Any) -> None:
        """Look at every step of `trainer` from now on."""
        compute_loss, grad_norm, log = trainer.compute_loss, trainer._get_grad_norm, trainer.log

        def watched(model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
            fed = {k: v for k, v in inputs.items() if hasattr(v, "numel")} if isinstance(inputs, Mapping) else {}
            found = compute_loss(model, inputs, *rest, **options)
            if model.training:
                self._fed.append(fed)
                self._losses.append((found[0] if isinstance(found, tuple) else found).detach())
                self._sums = options.get("num_items_in_batch") is not None and trainer.model_accepts_loss_kwargs
            return found

        def normed(*args: Any, **options: Any) -> Any:
            self._norm = grad_norm(*args, **options)
            return self._norm

        def logged(logs: dict[str, float], *rest: Any, **options: Any) -> None:
            # transformers leaves losses out that are no numbers; of steps without any other it would log 0
            known = "loss" not in logs or self._measured
            self._measured = self._measured and "loss" not in logs
            self._remember(trainer.state)
            log(logs if known else {key: value for key, value in logs.items() if key != "loss"}, *rest, **options)

        trainer.compute_loss, trainer._get_grad_norm, trainer.log = watched, normed, logged
        trainer.add_callback(self._callback(trainer))

    def _callback(self, trainer: Any) -> Any:
        from transformers import TrainerCallback

        watch = self

        class BadStepsCallback(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
                watch._window.extend(state.stateful_callbacks.get(_STATE, ()))
                told = state.stateful_callbacks.get(_SKIPPED, (0, 0, False))
                watch.skipped, watch._in_a_row, watch._measured = (*told, True)[:3]
                keep_until(watch.folder / LIST, state.global_step)

            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
                watch._forget()

            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
                watch.look(state.global_step + 1, trainer, scaled=bool(args.fp16))
                watch._remember(state)

        return BadStepsCallback()

    def look(self, step: int, trainer: Any, *, scaled: bool = False) -> None:
        """Judge the step that is about to be taken. `scaled`: float16's scaler leaves out steps of infinite gradients.

        Raises TrainingError where the recipe stops there.
        """
        losses = [float(loss) for loss in self._losses]
        loss = sum(losses) / (1 if self._sums else max(1, len(losses)))
        why, key = self._judged(losses, loss, scaled)
        if math.isfinite(loss):
            self._window.append(loss)
            self._measured = True
        action = getattr(self.section, key) if why else "ignore"
        self._in_a_row = self._in_a_row + 1 if action == "skip" else 0
        if action != "ignore":
            self._act(f"{why} at step {step}", key, step, losses, trainer)
        self._forget()

    def _remember(self, state: Any) -> None:
        counts = [self.skipped, self._in_a_row, self._measured]
        state.stateful_callbacks |= {_STATE: list(self._window), _SKIPPED: counts}

    def _forget(self) -> None:
        self._fed, self._losses, self._norm = [], [], None

    def _judged(self, losses: Sequence[float], loss: float, scaled: bool) -> tuple[str | None, str]:
        """(what is wrong or None, the key of the recipe that says what to do)."""
        if bad := [one for one in losses if not math.isfinite(one)]:
            return f"the loss is {bad[0]}", "action"
        norm = None if self._norm is None else float(self._norm)
        if norm is not None and not math.isfinite(norm) and not scaled:
            return f"the gradients have a norm of {norm}", "action"
        if self._fed and not any(_learns(fed) for fed in self._fed):
            return "no token is supervised", "action"
        if (usual := self._spike_above()) is not None and loss > usual:
            return f"the loss is {loss:.3f}, a spike above {usual:.3f}", "spike_action"
        return None, ""

    def _spike_above(self) -> float | None:
        """The loss from which one is a spike, None where too little is known.

        The median of the last losses, and above it `spike_factor` times their interquartile range, one nat at least.
        """
        if len(self._window) < _LEAST:
            return None
        low, median, high = quantiles(self._window, n=4)
        return median + max(_OVER, self.section.spike_factor * (high - low))

    def _act(self, what: str, key: str, step: int, losses: Sequence[float], trainer: Any) -> None:
        action = getattr(self.section, key)
        if action != "tell":
            require_numbers(trainer, what)
        kept, rows = self._keep(step, losses, action), self._rows(losses)
        named = ", ".join(rows[:_NAMED]) + (f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else "")
        self._note({"step": step, "why": what, "action": action, "losses": losses, "rows": rows})
        where = f"{what}, in a batch of {named or 'unknown rows'}" + (f"; the batch is kept in {kept}" if kept else "")
        if action == "skip" and self._in_a_row <= self.section.most_skipped:
            for group in trainer.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
            self.skipped += 1
            self.tell(f"{where}: the step is skipped")
        elif action == "tell":
            self.tell(where)
        else:
            several = f" ({self._in_a_row} bad steps in a row)" if action == "skip" else ""
            way = f"; with bad_steps.{key}=skip training goes on without such steps" if action == "stop" else ""
            look = f". `fastft replay {self.folder.parent} --step {step}` computes it again"
            raise TrainingError(where + several + look + way)

    def _rows(self, losses: Sequence[float]) -> list[str]:
        """Of the micro-batches whose loss is no number; where there is none, of all."""
        bad = [fed for fed, loss in zip(self._fed, losses, strict=False) if not math.isfinite(loss)]
        return [row for fed in bad or self._fed for row in rows_of(fed, self.examples)]

    def _keep(self, step: int, losses: Sequence[float], action: str) -> Path | None:
        """The step's micro-batches in one file; its tensors are called by micro-batch and name, as 0.input_ids."""
        from safetensors.torch import save_file

        path = self.folder / f"step-{step}.safetensors"
        if action == "tell" and len(list(self.folder.glob("step-*"))) >= _KEPT:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"{n}.{name}": t for n, fed in enumerate(self._fed) for name, t in fed.items()}
        partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        try:
            save_file(
                {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()},
                partial,
                metadata={"step": str(step), "losses": json.dumps([repr(loss) for loss in losses])},
            )
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def _note(self, fact: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        losses = [loss if math.isfinite(loss) else str(loss) for loss in fact["losses"]]
        append_lines(self.folder / LIST, {**fact, "losses": losses})


def _learns(fed: Mapping[str, Any]) -> bool:
    """Whether a batch has a token that its loss is about; a batch that doesn't say so has."""
    labels = [value for name, value in fed.items() if name == "labels" or name.endswith("_labels")]
    masks = [value for name, value in fed.items() if name == "completion_mask"]
    told = [value != -100 for value in labels] or [value != 0 for value in masks]
    return not told or any(bool(each.any()) for each in told)


def rows_of(fed: Mapping[str, Any], examples: Sequence[Example]) -> list[str]:
    """Where the documents of a batch are from, in its order: file and line of each that is one of `examples`.

    Rows of the same tokens can't be told apart: they are named together.
    """
    documents = [tuple(ids) for ids in _documents(fed)]
    return list(dict.fromkeys(place for place in places_of(documents, examples) if place))


def places_of(documents: Sequence[tuple[int, ...]], examples: Sequence[Example]) -> list[str]:
    """The place of each of the documents, as `rows_of` names them; empty where it is none of `examples`."""
    found: dict[tuple[int, ...], list[str]] = {ids: [] for ids in documents}
    for example in examples:
        places = found.get(tuple(example.input_ids))
        if places is not None and example.place not in places:
            places.append(example.place)
    return [" or ".join(found[ids][:_NAMED]) for ids in documents]


def _documents(fed: Mapping[str, Any]) -> Iterator[list[int]]:
    for name, ids in fed.items():
        if not name.endswith(("input_ids", "prompt_ids")):
            continue
        mask = fed.get(name.replace("input_ids", "attention_mask").replace("prompt_ids", "prompt_mask"))
        positions = fed.get("position_ids")
        for row in range(len(ids)):
            line = ids[row].tolist()
            if mask is not None:
                line = [token for token, real in zip(line, mask[row].tolist(), strict=True) if real]
            starts = [0]
            if positions is not None and mask is None:
                starts = [at for at, position in enumerate(positions[row].tolist()) if position == 0] or [0]
            yield from (line[start:end] for start, end in zip(starts, [*starts[1:], len(line)], strict=True))
