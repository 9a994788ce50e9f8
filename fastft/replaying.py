"""`replay`: a batch that was kept because its loss was no number, computed again with the weights of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastft.checkpoints import step_of, whole_checkpoint
from fastft.errors import ModelError
from fastft.finite import rows_of
from fastft.run import Run

_FOLDER = "bad_batches"


@dataclass(frozen=True, slots=True)
class Replayed:
    """The batch of `step` with the weights of `checkpoint` (None: those that training began with).

    `loss` is the mean over the batch's learned tokens, `norm` that of the gradients, `worst` the learned tokens with
    the largest losses: (position in the batch, token, its loss).
    """

    step: int
    checkpoint: Path | None
    rows: tuple[str, ...]
    tokens: int
    learned: int
    loss: float
    norm: float
    worst: tuple[tuple[int, str, float], ...]


def replay(target: Run | Path | str, step: int) -> Replayed:
    """Compute the kept batch of `step` again: forward and backward, nothing is learned and nothing written.

    Raises ModelError if no batch of that step was kept, or the method feeds more than ids and labels.
    """
    run = target if isinstance(target, Run) else Run.open(target)
    path = run.directory / _FOLDER / f"step-{step}.safetensors"
    if not path.is_file():
        kept = ", ".join(sorted(each.stem.removeprefix("step-") for each in path.parent.glob("step-*.safetensors")))
        there = f"kept are those of the steps {kept}" if kept else "none was kept in this run"
        raise ModelError(f"no batch of step {step} was kept in {run.directory}: {there}")
    from safetensors.torch import load_file

    fed = load_file(path)
    if not {"input_ids", "labels"} <= set(fed):
        raise ModelError(f"{path} holds {', '.join(sorted(fed))}: only batches of sft and pretrain can be run again")
    return _computed(run, step, fed)


def _computed(run: Run, step: int, fed: Mapping[str, Any]) -> Replayed:
    import torch
    from torch.nn.functional import cross_entropy

    from fastft.checking import check

    checked = check(run.recipe_path)
    if checked.recipe.lora is None:
        raise ModelError(f"{run.directory} trains all weights: only runs with a LoRA can be replayed")
    model, tokenizer, checkpoint = _model_at(run, checked, step)
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in fed.items()}
    labels = inputs.pop("labels")
    half = next((p.dtype for p in model.parameters() if p.dtype in (torch.bfloat16, torch.float16)), None)
    with torch.autocast(device.type, dtype=half, enabled=half is not None):
        logits = model(**inputs, use_cache=False).logits[:, :-1].float()
    wanted = labels[:, 1:]
    losses = cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none", ignore_index=-100)
    learned = wanted.flatten() != -100
    loss = losses[learned].mean()
    loss.backward()
    norms = [p.grad.float().norm() for p in model.parameters() if p.grad is not None]
    order = losses.detach().nan_to_num(nan=float("inf")).masked_fill(~learned, -1).argsort(descending=True)[:5]
    ids = wanted.flatten()
    worst = tuple((int(at) + 1, tokenizer.decode([int(ids[at])]), float(losses[at])) for at in order)
    rows = tuple(rows_of({**inputs}, checked.data.train))
    norm = float(torch.stack(norms).norm()) if norms else 0.0
    return Replayed(step, checkpoint, rows, inputs["input_ids"].numel(), int(learned.sum()), float(loss), norm, worst)


def _model_at(run: Run, checked: Any, step: int) -> tuple[Any, Any, Path | None]:
    """(model, tokenizer, checkpoint) with the weights of the newest whole checkpoint before `step`."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    from fastft.model import load_model

    recipe = checked.recipe
    model, tokenizer = load_model(recipe.model, recipe.lora)
    checkpoint = whole_checkpoint(run.checkpoints, before=step)
    if checkpoint is not None:
        set_peft_model_state_dict(model, load_file(checkpoint / "adapter_model.safetensors"))
    model.train()
    return model, tokenizer, checkpoint


def describe(found: Replayed) -> str:
    """What was found, in lines."""
    weights = f"checkpoint {step_of(found.checkpoint)}" if found.checkpoint else "the weights training began with"
    lines = [
        f"step {found.step}: {found.tokens:,} tokens, {found.learned:,} learned, with {weights}",
        f"loss {found.loss:.4f}, gradient norm {found.norm:.4f}",
        "rows  " + (", ".join(found.rows) or "unknown"),
        *(f"  position {at}: {json.dumps(token)} {loss:.3f}" for at, token, loss in found.worst),
    ]
    return "\n".join(lines)
