"""What follows a step: its point, its evaluation, its checkpoint, and the end where one was asked for.

A checkpoint is written after all that belongs to its step, or says which evaluation is still to be made; so a run that
goes on from it does what was left, and nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.open_ends import keep_open_ends, take_up_open_ends
from fastft.random_state import random_state, set_random_state

if TYPE_CHECKING:
    from fastft.stopping import Stopping

_STEP, _EPOCH = "step", "epoch"  # where an evaluation belongs that was broken off


class _BrokenOffError(Exception):
    """An evaluation was ended by a signal."""


@dataclass(slots=True)
class AfterStep:
    """In the place of a trainer's own `_maybe_log_save_evaluate` and `_run_epoch`, once attached.

    transformers saves at the end of an epoch's last step, before what is logged and evaluated by epochs; it takes one
    step more where a run goes on from a checkpoint of its last step; and it stops no evaluation for a signal.
    """

    trainer: Any
    stopping: Stopping
    checkpoint: Path | None = None  # that the run goes on from
    _log_save_evaluate: Callable[..., None] = field(init=False)
    _run_epoch: Callable[..., None] = field(init=False)
    _seen: int = -1  # the step that was followed up last
    _postponed: bool = False  # a checkpoint that waits for the end of the epoch
    _evaluates: bool = False
    _due: str = ""
    _over: bool = False  # training came to its end, or was stopped with a checkpoint

    def attach(self) -> None:
        trainer = self.trainer
        self._log_save_evaluate, trainer._maybe_log_save_evaluate = trainer._maybe_log_save_evaluate, self.follow_up
        self._run_epoch, trainer._run_epoch = trainer._run_epoch, self.run_epoch
        if self.checkpoint is not None:
            trainer.args.eval_on_start = False  # that was done
        trainer.add_callback(self._callback())

    def keep(self, folder: Path) -> None:
        """Write into a checkpoint what transformers leaves out."""
        ended = bool(self.trainer.control.should_training_stop)
        keep_open_ends(self.trainer, folder, ended=ended and not self._due, due=self._due)

    def run_epoch(self, *given: Any, **options: Any) -> None:
        """An epoch, unless training is over: the checkpoint may be that of the last step."""
        state, control = self.trainer.state, self.trainer.control
        if self._over or control.should_training_stop or state.global_step >= state.max_steps:
            control.should_training_stop = True
            return
        self._run_epoch(*given, **options)

    def follow_up(self, tr_loss: Any, grad_norm: Any, model: Any, trial: Any, *given: Any, **options: Any) -> None:
        """Log and evaluate what is due after a step or at the end of an epoch, then save, then stop if asked to."""
        if self._over:
            return
        trainer, step = self.trainer, self.trainer.state.global_step
        at_end_of_epoch, self._seen = step == self._seen, step
        saves = bool(trainer.control.should_save) or (at_end_of_epoch and self._postponed)
        trainer.control.should_save = self._postponed = False
        self._due = self._evaluate_or_break_off(
            at_end_of_epoch, lambda: self._log_save_evaluate(tr_loss, grad_norm, model, trial, *given, **options)
        )
        last = bool(trainer.control.should_training_stop)
        saves = saves or bool(self._due) or (self.stopping.received is not None and last)
        if saves and not at_end_of_epoch and not self._due and self._epoch_ends():
            self._postponed = True
            return
        if saves:
            trainer._save_checkpoint(model, trial)
            trainer.control = trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)
        if self._due or (saves and self.stopping.received is not None):
            self._over = trainer.control.should_training_stop = True

    def _evaluate_or_break_off(self, at_end_of_epoch: bool, evaluate: Callable[[], None]) -> str:
        """Where the evaluation belongs that was broken off, with everything as it was before it; else nothing."""
        before = random_state()
        self._evaluates = True
        try:
            evaluate()
        except _BrokenOffError:
            set_random_state(before)
            getattr(self.trainer, "_metrics", {}).get("eval", {}).clear()
            getattr(self.trainer, "_stored_metrics", {}).pop("eval", None)
            self.trainer.control.should_evaluate = False
            return _EPOCH if at_end_of_epoch else _STEP
        finally:
            self._evaluates = False
        return ""

    def _epoch_ends(self) -> bool:
        """Whether transformers will now log, evaluate or save as it does at the end of an epoch."""
        args, state = self.trainer.args, self.trainer.state
        by_epoch = _EPOCH in {str(getattr(s, "value", s)) for s in (args.logging_strategy, args.eval_strategy)}
        return by_epoch and (float(state.epoch).is_integer() or bool(self.trainer.control.should_training_stop))

    def take_up(self) -> None:
        """Go on from the checkpoint, with the evaluation first that it says is still to be made."""
        if self.checkpoint is None:
            return
        trainer = self.trainer
        ended, due = take_up_open_ends(trainer, self.checkpoint)
        self._over = ended
        if not due:
            return
        trainer._load_rng_state(str(self.checkpoint))
        trainer.control.should_evaluate = trainer.control.should_save = True
        self._seen = trainer.state.global_step if due == _EPOCH else -1
        self._follow_up_now()
        if self._postponed:
            trainer.control = trainer.callback_handler.on_epoch_end(trainer.args, trainer.state, trainer.control)
            self._follow_up_now()
        # From here on the checkpoint, written again, holds the random state after the evaluation.

    def _follow_up_now(self) -> None:
        trainer = self.trainer
        ended = trainer.state.global_step >= trainer.state.max_steps
        trainer.control.should_training_stop = trainer.control.should_training_stop or ended
        model, epoch = trainer.model_wrapped, trainer.state.epoch
        self.follow_up(trainer._tr_loss, None, model, None, epoch, None, time.time())

    def _callback(self) -> Any:
        """A TrainerCallback, which comes after all others."""
        from transformers import TrainerCallback

        after = self

        class AfterStepCallback(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
                after.take_up()

            def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
                if after.stopping.received is None:
                    return
                if after._evaluates:
                    raise _BrokenOffError
                raise KeyboardInterrupt  # before the first step: nothing was learned that a checkpoint would keep

        return AfterStepCallback()
