"""Losses and gradients stay numbers: where one isn't, training stops, and the batch is kept with its rows named."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastft.data.conversation import Example
from fastft.errors import TrainingError

_NAMED = 5  # rows named in a message
_HELD = 256  # micro-batches held until they are looked at, where nothing is logged


@dataclass(slots=True)
class FiniteGuard:
    """Looks at every loss where a point is logged, so that a GPU is never waited for in between.

    `examples` are the training rows, in any order; bad batches go to `folder` as safetensors.
    """

    examples: Sequence[Example]
    folder: Path
    _recent: list[tuple[dict[str, Any], Any]] = field(default_factory=list)
    _last: list[tuple[dict[str, Any], Any]] = field(default_factory=list)  # those looked at last

    def attach(self, trainer: Any) -> None:
        """Guard `trainer` from now on."""
        compute_loss = trainer.compute_loss

        def guarded(model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
            fed = {k: v for k, v in inputs.items() if hasattr(v, "numel")} if isinstance(inputs, Mapping) else {}
            found = compute_loss(model, inputs, *rest, **options)
            if model.training:
                loss = found[0] if isinstance(found, tuple) else found
                self._recent.append((fed, loss.detach()))
            return found

        trainer.compute_loss = guarded
        trainer.add_callback(self._callback())

    def _callback(self) -> Any:
        from transformers import TrainerCallback

        guard = self

        class FiniteCallback(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
                if control.should_log or control.should_save or len(guard._recent) > _HELD:
                    guard.check(state.global_step)

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
                norm = (logs or {}).get("grad_norm")
                # In float16 the scaler looks for its scale by such steps, and leaves them out itself.
                if norm is not None and not args.fp16 and not math.isfinite(float(norm)):
                    guard.stop(f"the gradients of step {state.global_step} have a norm of {norm}", state.global_step)

        return FiniteCallback()

    def check(self, step: int) -> None:
        """Raises TrainingError if a loss since the last look is no finite number."""
        import torch

        self._last, self._recent = self._recent, []
        bad = [(fed, loss) for fed, loss in self._last if not bool(torch.isfinite(loss))] if self._any_bad() else []
        if bad:
            self._last = bad[:1]
            self.stop(f"the loss is {float(bad[0][1])} at or shortly before step {step}", step)

    def _any_bad(self) -> bool:
        """Looked at together, so that the device is waited for once."""
        import torch

        return bool(self._last) and not bool(torch.isfinite(torch.stack([x.float() for _, x in self._last])).all())

    def stop(self, what: str, step: int) -> None:
        """Keep the batch last looked at and raise TrainingError with its rows."""
        if not self._last:
            raise TrainingError(what)
        fed = self._last[0][0]
        kept, places = self._keep(fed, step), rows_of(fed, self.examples)
        named = ", ".join(places[:_NAMED]) + (f" and {len(places) - _NAMED} more" if len(places) > _NAMED else "")
        raise TrainingError(f"{what}, in a batch of {named or 'unknown rows'}; the batch is kept in {kept}")

    def _keep(self, fed: Mapping[str, Any], step: int) -> Path:
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step}.safetensors"
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in fed.items()}, path)
        return path


def rows_of(fed: Mapping[str, Any], examples: Sequence[Example]) -> list[str]:
    """Where the documents of a batch are from: file and line of each that is one of `examples`."""
    wanted = {tuple(ids) for ids in _documents(fed)}
    return [example.place for example in examples if tuple(example.input_ids) in wanted]


def _documents(fed: Mapping[str, Any]) -> Iterator[list[int]]:
    for name, ids in fed.items():
        if not name.endswith("input_ids"):
            continue
        mask = fed.get(name.replace("input_ids", "attention_mask"))
        positions = fed.get("position_ids")
        for row in range(len(ids)):
            line = ids[row].tolist()
            if mask is not None:
                line = [token for token, real in zip(line, mask[row].tolist(), strict=True) if real]
            starts = [0]
            if positions is not None and mask is None:
                starts = [at for at, position in enumerate(positions[row].tolist()) if position == 0] or [0]
            yield from (line[start:end] for start, end in zip(starts, [*starts[1:], len(line)], strict=True))
