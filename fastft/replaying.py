"""`replay`: a kept batch, computed again by the run's own trainer with the weights of the checkpoint before it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.bad_steps import FOLDER, places_of, rows_of
from fastft.checkpoints import step_of, whole_checkpoint
from fastft.errors import ModelError
from fastft.run import Run

if TYPE_CHECKING:
    from fastft.checking import CheckReport
    from fastft.data.conversation import Example

Worst = tuple[tuple[str, int, str, float], ...]
_KEPT = (
    "Only the batches of bad steps are kept: a loss or gradient that is NaN or infinite, no supervised token, a spike "
    "of the loss."
)
_WORST = 5  # tokens with the largest losses that are shown


@dataclass(frozen=True, slots=True)
class Replayed:
    """The batch of `step` with the weights of `checkpoint` (None: those that training began with).

    `losses` are those of its micro-batches as the trainer computes them now, `in_training` those that it found then,
    with the weights of the step before; `norm` that of the step's gradients, `worst`
    the learned tokens with the largest losses: (its row's place, position in it, token, its loss in nats), where the
    batch is of plain texts.
    """

    step: int
    checkpoint: Path | None
    rows: tuple[str, ...]
    tokens: int
    losses: tuple[float, ...]
    in_training: tuple[str, ...]
    norm: float
    worst: Worst


def replay(target: Run | Path | str, step: int) -> Replayed:
    """Compute the kept batch of `step` again: forward and backward, nothing is learned and nothing written.

    Raises ModelError if no batch of that step was kept, or the file of it can't be read.
    """
    run = target if isinstance(target, Run) else Run.open(target)
    path = run.directory / FOLDER / f"step-{step}.safetensors"
    if not path.is_file():
        names = [each.stem.removeprefix("step-") for each in path.parent.glob("step-*.safetensors")]
        kept = sorted(int(name) for name in names if name.isdecimal())
        there = f"kept are those of the steps {', '.join(map(str, kept))}" if kept else "none was kept in this run"
        raise ModelError(f"no batch of step {step} was kept in {run.directory}: {there}", hint=_KEPT)
    return _computed(run, step, path)


def _micro_batches(path: Path) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """(the tensors of `path`, which are called 0.input_ids and so on, the losses that training found).

    Raises ModelError if that is not what it holds.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[int, dict[str, Any]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            losses = tuple(map(str, json.loads((file.metadata() or {}).get("losses", "[]"))))
            for name in file.keys():  # noqa: SIM118 (no mapping)
                number, _, key = name.partition(".")
                found.setdefault(int(number), {})[key] = file.get_tensor(name)
    except (SafetensorError, ValueError, TypeError, RecursionError, OSError) as error:
        raise ModelError(f"{path} is no batch that training kept: {error}") from error
    return [found[number] for number in sorted(found)], losses


def _computed(run: Run, step: int, path: Path) -> Replayed:
    import torch

    from fastft.checking import check

    batches, in_training = _micro_batches(path)
    checked = check(run.recipe_path)
    checkpoint = whole_checkpoint(run.checkpoints, before=step)
    with tempfile.TemporaryDirectory(prefix="fastft-replay-") as folder:
        trainer, tokenizer = _trainer_at(run, checked, checkpoint, Path(folder))
        try:
            losses = _losses(trainer, batches)
            worst = _worst(trainer, tokenizer, batches, checked.data.train)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{path} can't be computed by this run's model: {reason}") from error
        norms = [p.grad.float().norm() for p in trainer.model.parameters() if p.grad is not None]
    rows = tuple(dict.fromkeys(row for batch in batches for row in rows_of(batch, checked.data.train)))
    ids = ("input_ids", "prompt_ids", "completion_ids")
    tokens = sum(t.numel() for batch in batches for name, t in batch.items() if name.endswith(ids))
    norm = float(torch.stack(norms).norm()) if norms else 0.0
    return Replayed(step, checkpoint, rows, tokens, tuple(losses), in_training, norm, worst)


def _losses(trainer: Any, batches: Sequence[Mapping[str, Any]]) -> list[float]:
    """Of each micro-batch; their gradients are added up in the model."""
    from transformers import Trainer

    learned = sum(int((batch["labels"] != -100).sum()) for batch in batches if "labels" in batch)
    losses = []
    for batch in batches:
        inputs = Trainer._prepare_inputs(trainer, dict(batch))  # TRL's would have answers written
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=learned or None)
        (loss if learned else loss / len(batches)).backward()
        losses.append(float(loss.detach()))
    return losses


def _trainer_at(run: Run, checked: CheckReport, checkpoint: Path | None, folder: Path) -> tuple[Any, Any]:
    """(the run's trainer, tokenizer): a model with the weights of `checkpoint`, or those that training began with."""
    from fastft.model import load_model
    from fastft.resume import started_with
    from fastft.trainers import find_method, trainer_builder
    from fastft.trainers.method import Job

    recipe, data = checked.recipe, checked.data
    model, tokenizer = load_model(recipe.model, recipe.lora, classifies=find_method(recipe.method).classifies)
    tokenizer.chat_template = checked.tokenizer.chat_template
    arguments = {**(started_with(run) or checked.arguments), "report_to": "none"}
    trainer = trainer_builder(recipe.method)(
        Job(model, tokenizer, data, arguments, folder / "checkpoints", rewards=recipe.rewards)
    )
    if checkpoint is not None:
        trainer._load_from_checkpoint(str(checkpoint))
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    return trainer, tokenizer


def _worst(trainer: Any, tokenizer: Any, batches: Sequence[Mapping[str, Any]], examples: Sequence[Example]) -> Worst:
    """Of the documents in the batches, each by itself, the learned tokens with the largest losses."""
    import torch
    from torch.nn.functional import cross_entropy

    found: list[tuple[str, int, str, float]] = []
    documents = [pair for batch in batches if "labels" in batch for pair in _with_labels(batch)]
    half = next((p.dtype for p in trainer.model.parameters() if p.dtype in (torch.bfloat16, torch.float16)), None)
    device = next(trainer.model.parameters()).device
    places = places_of([tuple(ids.tolist()) for ids, _ in documents], examples)
    for place, (ids, labels) in zip(places, documents, strict=True):
        with torch.no_grad(), torch.autocast(device.type, dtype=half, enabled=half is not None):
            logits = trainer.model(input_ids=ids[None].to(device), use_cache=False).logits[0, :-1].float()
        wanted = labels[1:].to(device)
        losses = cross_entropy(logits, wanted, reduction="none", ignore_index=-100).nan_to_num(nan=float("inf"))
        losses = losses.masked_fill(wanted == -100, -1.0)
        worst = [at for at in losses.argsort(descending=True)[:_WORST].tolist() if wanted[at] != -100]
        found += [(place or "a row", at + 1, tokenizer.decode([int(wanted[at])]), float(losses[at])) for at in worst]
    return tuple(sorted(found, key=lambda each: -each[3])[:_WORST])


def _with_labels(batch: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """(ids, labels) of each document of a batch, padded or laid end to end."""
    pairs = []
    for row, ids in enumerate(batch["input_ids"]):
        labels = batch["labels"][row]
        if "attention_mask" in batch:
            real = batch["attention_mask"][row].bool()
            pairs.append((ids[real], labels[real]))
            continue
        places = batch["position_ids"][row] if "position_ids" in batch else None
        starts = (places == 0).nonzero().flatten().tolist() if places is not None else [0]
        ends = [*starts[1:], len(ids)]
        pairs += [(ids[start:end], labels[start:end]) for start, end in zip(starts, ends, strict=True)]
    return pairs


def describe(found: Replayed) -> str:
    """What was found, in lines."""
    weights = f"checkpoint {step_of(found.checkpoint)}" if found.checkpoint else "the weights training began with"
    losses = ", ".join(f"{loss:.4f}" for loss in found.losses)
    then = ", ".join(f"{float(loss):.4f}" for loss in found.in_training)
    between = found.step - 1 - step_of(found.checkpoint)
    older = (
        f" (its weights had learned from {between} more; save_steps: 1 with a higher save_total_limit keeps them)"
        if between
        else ""
    )
    lines = [
        f"step {found.step}: {found.tokens:,} tokens in {len(found.losses)} micro-batches, with {weights}",
        f"losses {losses}; gradient norm {found.norm:.4f}",
        f"in training they were {then or 'not told'}{older}",
        "rows  " + (", ".join(found.rows) or "unknown"),
        *(f"  {row}, token {at}: {json.dumps(token)} {loss:.3f}" for row, at, token, loss in found.worst),
    ]
    return "\n".join(lines)
