"""Tokens a second, the card's use, waiting for data, memory and padding, measured on the steps that are really taken.

The counts are taken from what the loss is computed of, on the device it lies on, and read only where a point is logged:
a micro-batch costs a few small kernels and never waits for the device. Nothing is put in the place of TRL's collator,
which would switch Unsloth's fast path off.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastft.data.conversation import IGNORE
from fastft.steady_clock import by_steady_clock

if TYPE_CHECKING:
    from fastft.checking import CheckReport
    from fastft.flops import StepCost

_COUNTS = ("steps", "tokens", "supervised", "fed", "pairs")  # of a window: what no clock told
_WITH_REFERENCE = ("dpo", "kto")  # whose loss compares with the model as it was: a forward pass more


@dataclass(slots=True)
class Window:
    """What some steps took. `tokens` are real ones, `fed` the positions computed, padding included.

    `supervised` are the tokens the loss is about (None where none are told, as for reward models), `pairs` the
    positions that attend: S·(S+1)/2 of a document of S tokens. `seconds` are from asking for a step's data to the end
    of the step, evaluations and checkpoints left out; `waited` are those of them spent waiting for the data.
    """

    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    tokens: int = 0
    supervised: int | None = 0
    fed: int = 0
    pairs: int = 0

    def __add__(self, other: Window) -> Window:
        told = self.supervised is not None and other.supervised is not None
        return Window(
            self.steps + other.steps,
            self.seconds + other.seconds,
            self.waited + other.waited,
            self.tokens + other.tokens,
            (self.supervised or 0) + (other.supervised or 0) if told else None,
            self.fed + other.fed,
            self.pairs + other.pairs,
        )

    def rates(self, cost: StepCost | None = None, tflops: float | None = None) -> dict[str, float]:
        """Rates and shares by the names they are logged by; what isn't known is left out. `tflops` is the card's."""
        if not self.seconds or not self.fed:
            return {}
        found = {"tokens_per_second": round(self.tokens / self.seconds, 1)}
        if self.supervised is not None:
            found["supervised_tokens_per_second"] = round(self.supervised / self.seconds, 1)
        if cost is not None and tflops:
            found["mfu"] = round(cost.of(self.tokens, self.pairs) / self.seconds / (tflops * 1e12), 4)
        found["data_wait"] = round(self.waited / self.seconds, 4)
        found["padding"] = round(1 - self.tokens / self.fed, 4)
        return found


@dataclass(slots=True)
class Meter:
    """Counts and times the steps of one process's training: `attach` to a trainer, then read `point` and `summary`.

    After a resume the tokens of the former processes' steps are counted, as checkpoints hold them; their time is not.
    """

    cost: StepCost | None = None
    tflops: float | None = None
    first: Window = field(default_factory=Window)  # the first step, which allocates, compiles and fills caches
    later: Window = field(default_factory=Window)
    _open: Window = field(default_factory=Window)  # steps that weren't read yet
    _untold: Window = field(default_factory=Window)  # the first step, until a point has told it
    _before: Window = field(default_factory=Window)  # steps of the processes before, up to the checkpoint
    _counts: Any = None  # on the device: tokens, supervised ones, pairs
    _told: bool = True  # whether the batches say which tokens are learned
    _began: float = 0.0
    _peak: int = 0

    def attach(self, trainer: Any) -> None:
        """Count and time what `trainer` does in training from now on."""
        by_steady_clock()
        samples, loss = trainer.get_batch_samples, trainer.compute_loss
        padded = getattr(trainer.args, "pad_to_multiple_of", None)

        def get_batch_samples(epoch_iterator: Any, *rest: Any, **options: Any) -> Any:
            self._began = self._began or time.perf_counter()
            return samples(self._waiting(epoch_iterator), *rest, **options)

        def compute_loss(model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
            if model.training and isinstance(inputs, Mapping):
                self.count(inputs, bool(padded))
            return loss(model, inputs, *rest, **options)

        trainer.get_batch_samples, trainer.compute_loss = get_batch_samples, compute_loss
        trainer.meter = self  # checkpoints keep what it hasn't told yet
        trainer.callback_handler.callbacks.insert(1, _meter_callback(self))  # right behind the flow of control

    def _waiting(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self._open.waited += time.perf_counter() - began
            yield batch

    def count(self, inputs: Mapping[str, Any], padded: bool) -> None:
        """Add a micro-batch, without waiting for the device. With `padded` it may end in padding no mask tells of."""
        import torch

        for ids, mask, positions, learned in _sequences(inputs):
            counted = torch.stack(_counted(ids, mask, positions, learned, padded))
            self._counts = counted if self._counts is None else self._counts + counted
            self._told = self._told and learned is not None
            self._open.fed += ids.numel()

    def step_ended(self, device: Any, *, read: bool) -> None:
        """A step ended. `read` where a point, an evaluation or a checkpoint follows: the device is waited for there."""
        first = not self.first.steps
        if (read or first) and device.type == "cuda":
            import torch

            torch.cuda.synchronize(device)
        self._open.steps += 1
        self._open.seconds += time.perf_counter() - self._began if self._began else 0.0
        self._began = 0.0
        if first:
            self.first = self._close()
            self._untold += self.first

    def point(self) -> dict[str, Any]:
        """What a logged point says of the steps since the last one. Of rates, the first step has none but its own."""
        window = self._close()
        self.later += window
        timed = window if window.steps or not self._untold.steps else self.first
        whole, self._untold = self._untold + window, Window()
        counts = {"tokens": whole.tokens, "supervised_tokens": whole.supervised} if whole.steps else {}
        told = {key: count for key, count in counts.items() if count is not None}
        rates = timed.rates(self.cost, self.tflops)
        if rates:  # a count and no rate, so the first step's are among them, and those of before a resume
            rates["padding"] = round(1 - whole.tokens / whole.fed, 4)
        self._peak = peak_memory()
        return {**told, **rates, "peak_memory": self._peak}

    def counts(self) -> dict[str, dict[str, int | None]]:
        """For a checkpoint: the counts, all but times, of the steps since the last point, and of all steps."""
        self._open = self._close()  # read from the device, and still open
        parts = {"untold": self._untold + self._open, "all": self._before + self.first + self.later + self._open}
        return {part: {name: getattr(whole, name) for name in _COUNTS} for part, whole in parts.items()}

    def take_up(self, counted: Mapping[str, Mapping[str, Any]]) -> None:
        """Begin with the counts that another process's checkpoint holds."""
        self._untold, self._before = Window(**counted.get("untold", {})), Window(**counted.get("all", {}))

    def restart(self) -> None:
        """Forget the steps so far: what follows is measured alone."""
        self._close()
        self.later = self._untold = Window()

    def summary(self) -> dict[str, Any]:
        """Tokens of all steps; memory and rates of this process's, of which the first counts only if it is alone."""
        self.later += self._close()
        whole = self._before + self.first + self.later
        steady = self.later if self.later.steps else self.first
        return {
            "peak_memory": self._peak or peak_memory(),
            "measured_steps": self.first.steps + self.later.steps,
            "tokens": whole.tokens,
            "supervised_tokens": whole.supervised,
            "first_step_seconds": round(self.first.seconds, 3),
            **steady.rates(self.cost, self.tflops),
        }

    def _close(self) -> Window:
        """The open window with its counts read from the device, and a new one begun."""
        window, self._open = self._open, Window()
        if self._counts is not None:
            tokens, learned, pairs = (int(count) for count in self._counts.tolist())
            window.tokens, window.pairs = window.tokens + tokens, window.pairs + pairs
            window.supervised = (window.supervised or 0) + learned if self._told else None
            self._counts = None
        return window


def peak_memory() -> int:
    """Bytes at the peak so far: allocated on the GPU if there is one, else resident in this process."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _sequences(inputs: Mapping[str, Any]) -> Iterator[tuple[Any, Any, Any, Any]]:
    """(ids, attention mask, position ids, mask of what is learned) of each part of a batch; None where not told."""
    import torch

    if "completion_ids" in inputs:  # GRPO and RLOO: prompts with the answers the model wrote
        seen, learned = inputs["prompt_mask"], inputs["completion_mask"]
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        yield ids, torch.cat([seen, learned], 1), None, learned
        return
    for side in ("chosen_", "rejected_", ""):  # ORPO and CPO have the sides apart
        if f"{side}input_ids" in inputs:
            labels, learned = inputs.get(f"{side}labels"), inputs.get("completion_mask")  # the latter: DPO and KTO
            learned = labels != IGNORE if labels is not None else learned
            yield inputs[f"{side}input_ids"], inputs.get(f"{side}attention_mask"), inputs.get("position_ids"), learned


def _counted(ids: Any, mask: Any, positions: Any, learned: Any, padded: bool) -> tuple[Any, Any, Any]:
    """Real tokens, supervised ones and attending pairs, as numbers on the device.

    A document's positions count from 0, so the pairs are the sum of position + 1 over the real tokens. With `padded`
    a batch without mask may end in padding, whose positions are all 0.
    """
    import torch

    if mask is None:
        mask = _not_padding(positions) if padded and positions is not None else torch.ones_like(ids)
    if positions is None:
        positions = mask.cumsum(-1) - 1
    supervised = learned.sum() if learned is not None else torch.zeros((), dtype=torch.int64, device=ids.device)
    return mask.sum().long(), supervised.long(), ((positions + 1) * mask).sum().long()


def _not_padding(positions: Any) -> Any:
    """1 for tokens, 0 for padding behind documents laid end to end: positions of 0 before another, or at the end."""
    import torch

    followed = torch.cat([positions[..., 1:], torch.zeros_like(positions[..., :1])], -1)
    return ((positions > 0) | (followed > 0)).long()


def _meter_callback(meter: Meter) -> Any:
    """Tells `meter` of ended steps, and puts what it measured into what is logged, for every callback behind."""
    from transformers import TrainerCallback

    class MeterCallback(TrainerCallback):
        begun = 0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            import torch

            self.begun = state.global_step
            if args.device.type == "cuda":  # what was evaluated before is no part of the training's peak
                torch.cuda.reset_peak_memory_stats(args.device)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            waits = control.should_log or control.should_evaluate or control.should_save
            meter.step_ended(args.device, read=waits)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
            if logs is not None and "loss" in logs:
                logs.update(meter.point())
            if logs is not None and "train_runtime" in logs:
                logs.update(_of_steps_taken(logs, (state.global_step - self.begun) / state.max_steps))

    return MeterCallback()


def _of_steps_taken(logs: Mapping[str, Any], share: float) -> dict[str, float]:
    """The rates of a whole training by the `share` of its steps that this process took, not all that were planned."""
    rates = ("train_samples_per_second", "train_steps_per_second")
    return {key: round(logs[key] * share, 3) for key in rates if key in logs}


def meter_for(checked: CheckReport, model: Any, arguments: Mapping[str, Any]) -> Meter:
    """A meter of the training that was checked, with the formula's cost where model, method and card are known."""
    from fastft.flops import recomputed_share, step_cost
    from fastft.model_files import resolve_model
    from fastft.planning.cards import find_card
    from fastft.planning.shape import read_shape
    from fastft.trainers import find_method

    recipe, method = checked.recipe, find_method(checked.recipe.method)
    card = None if checked.device.is_cpu else find_card(checked.device.name)
    shape = read_shape(resolve_model(recipe.model.model_name, recipe.model.revision, weights=False))
    if card is None or shape is None or method.generates:
        return Meter()
    refers = method.name in _WITH_REFERENCE and not arguments.get("precompute_ref_log_probs")
    recomputed = recomputed_share(model)
    frozen = recipe.lora is not None
    cost = step_cost(shape, frozen=frozen, recomputed=recomputed, reference=refers, scores=method.classifies)
    return Meter(cost, card.tflops or None)
