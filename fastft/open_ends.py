"""What is open in a training when a checkpoint is written: kept in it, and taken up by the run that goes on.

transformers' checkpoints leave out the losses that no point has told yet, TRL's sums of them, and the answers that GRPO
still learns from. Without them the next logged point would be that of fewer steps, and answers would be written again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "fastft_state.pt"
# Attributes of TRL's trainers that change from step to step, where a trainer has them.
_OF_TRL = (
    "_metrics", "_stored_metrics", "_total_train_tokens", "_step", "_buffered_inputs", "entropy_coef",
    "_last_world_entropy", "_entropy_window_stats",
)  # fmt: skip


def keep_open_ends(trainer: Any, folder: Path, *, ended: bool, due: str) -> None:
    """Write them into a checkpoint's `folder`.

    `ended` says that training came to its end with this step, `due` which evaluation of it was broken off.
    """
    import torch

    torch.save({**open_ends(trainer), "ended": ended, "due": due}, folder / FILE)


def open_ends(trainer: Any) -> dict[str, Any]:
    """What is open now, copied but for the answers that GRPO learns from."""
    found = {name: _plain(getattr(trainer, name)) for name in _OF_TRL if hasattr(trainer, name)}
    if found.get("_buffered_inputs") is not None and not _learns_from_them_again(trainer):
        found["_buffered_inputs"] = None
    losses = {
        "loss": trainer._tr_loss.detach().cpu().clone(),
        "losses_told": float(trainer._total_loss_scalar),
        "last_logged": int(trainer._globalstep_last_logged),
    }
    counted = trainer.meter.counts() if hasattr(trainer, "meter") else {}
    micro_batches = int(trainer.args.gradient_accumulation_steps)
    return {"trl": found, "losses": losses, "counted": counted, "micro_batches": micro_batches}


def take_up_open_ends(trainer: Any, checkpoint: Path) -> tuple[bool, str]:
    """Put back what `keep_open_ends` kept in `checkpoint`, once the trainer has begun; returns its `ended` and `due`.

    So is where the best checkpoint lies, which transformers looks for where it was when the run was written. Every how
    many steps things are done, and how many there are, is as the recipe says now: transformers would take the former
    from the checkpoint, and take one more step at the rate of a former schedule.
    """
    import torch

    kept = torch.load(checkpoint / FILE, map_location=trainer.args.device, weights_only=True)
    put_back_open_ends(trainer, kept)
    if best := best_of(checkpoint):
        trainer.state.best_model_checkpoint = str(checkpoint.parent / best)
    trainer.state.compute_steps(trainer.args, trainer.state.max_steps)
    if trainer.state.max_steps != _state_of(checkpoint).get("max_steps"):
        _follow_schedule(trainer.lr_scheduler)
    return bool(kept["ended"]), str(kept["due"])


def put_back_open_ends(trainer: Any, kept: Mapping[str, Any]) -> None:
    """Have `trainer` go on with what `open_ends` found."""
    for name, value in kept["trl"].items():
        if isinstance(value, dict):
            _fill(getattr(trainer, name), value)
        else:
            setattr(trainer, name, value)
    if "_buffered_inputs" in kept["trl"]:
        _follow_micro_batches(trainer, int(kept.get("micro_batches") or trainer.args.gradient_accumulation_steps))
    trainer._tr_loss.copy_(kept["losses"]["loss"])
    trainer._total_loss_scalar = kept["losses"]["losses_told"]
    trainer._globalstep_last_logged = kept["losses"]["last_logged"]
    if hasattr(trainer, "meter"):
        trainer.meter.take_up(kept["counted"])


def _follow_micro_batches(trainer: Any, before: int) -> None:
    """Where a step has more micro-batches than `before`, count in those, and split the answers still learned from."""
    from trl.trainer.utils import split_tensor_dict

    times = trainer.args.gradient_accumulation_steps // before
    if times <= 1:
        return
    trainer._step *= times
    if trainer._buffered_inputs is not None:
        parts = (split_tensor_dict(each, times) for each in trainer._buffered_inputs)
        trainer._buffered_inputs = [part for several in parts for part in several]


def best_of(checkpoint: Path) -> str | None:
    """The name of the checkpoint that was the best so far, by what `checkpoint` says."""
    best = _state_of(checkpoint).get("best_model_checkpoint")
    return Path(best).name if best else None


def _state_of(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))


def _follow_schedule(scheduler: Any) -> None:
    """Set the rates to what the schedule says of the step it is at; all of transformers' but two are such factors."""
    if not hasattr(scheduler, "lr_lambdas"):
        return
    told = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    for group, base, factor in told:
        group["lr"] = base * factor(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


def _learns_from_them_again(trainer: Any) -> bool:
    """Whether steps to come learn from the answers that were written last."""
    return bool(trainer._step % (trainer.args.steps_per_generation * trainer.num_iterations))


def _plain(value: Any) -> Any:
    """As what `torch.load` reads without executing anything: tensors, numbers, texts, lists and dicts."""
    import torch

    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        return value.detach()
    return value.item() if hasattr(value, "item") else value


def _fill(target: Any, values: Mapping[str, Any]) -> None:
    """Give a mapping of mappings these values, leaving it of its kind: TRL's make entries as they are asked for."""
    for key in list(target):
        if isinstance(target[key], Mapping):
            _fill(target[key], {})
        else:
            del target[key]
    for key, value in values.items():
        if isinstance(value, Mapping):
            _fill(target[key], value)
        else:
            target[key] = value
