"""Where memory runs out: half the micro-batch and twice the accumulation, so that a step learns from the same rows."""

from __future__ import annotations

import errno
import gc
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from fastft.errors import TrainingError
from fastft.host_memory import return_to_the_system
from fastft.open_ends import open_ends, put_back_open_ends
from fastft.random_state import random_state, set_random_state
from fastft.reading import read_yaml
from fastft.run_files import read_start, write_start
from fastft.trainers.groups import fewer_answers

if TYPE_CHECKING:
    from fastft.run import Run

What = Literal["training", "evaluation", "answers"]
_TRAINED, _EVALUATED = "per_device_train_batch_size", "per_device_eval_batch_size"
_ACCUMULATION, _GENERATED = "gradient_accumulation_steps", "steps_per_generation"
# What allocators of libraries say beside those that accelerate knows.
_SAID = ("bad_alloc", "bad allocation", "could not create a memory", "could not create a primitive", "cannot allocate")
# Seconds of training that are given up, so that the result is to the byte that of a run begun with less.
_WORTH_EXACTNESS = 300.0
_HINT = (
    "Less is needed with a shorter model.max_seq_length, lora.use_gradient_checkpointing: unsloth, "
    "model.load_in_4bit or a smaller model; `fastft plan RECIPE` tells what takes how much."
)


class TooLittleMemoryError(TrainingError):
    """Memory ran out where nothing can be made smaller. A process that begins afresh may come further with `run`."""

    run: Path | None = None


class AnswersError(RuntimeError):
    """Memory ran out while a model wrote the answers that it learns from: raised from the allocator's error."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or what it was raised from, says that memory ran out, of the GPU or of the host."""
    from accelerate.utils.memory import should_reduce_batch_size

    chain = _chain(error)
    if any(isinstance(each, TooLittleMemoryError) for each in chain):
        return False
    return any(
        isinstance(each, MemoryError)
        or (isinstance(each, OSError) and each.errno == errno.ENOMEM)
        or (isinstance(each, Exception) and should_reduce_batch_size(each))
        or (isinstance(each, RuntimeError) and any(said in str(each).lower() for said in _SAID))
        for each in chain
    )


def _chain(error: BaseException) -> list[BaseException]:
    """`error` and what it was raised from."""
    chain: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and seen not in chain:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    return chain


def failed_in(error: BaseException) -> What:
    """What of a step needs to be smaller after `error`: what learns, or what writes the answers for it."""
    return "answers" if any(isinstance(each, AnswersError) for each in _chain(error)) else "training"


def take_less(run: Run, step: int, what: What) -> str | None:
    """Have the run go on with smaller micro-batches; returns what was changed, in words, or None if nothing can be.

    A step learns from the same rows as before. It is recorded in start.json, which a resumed run goes by.
    """
    start = read_start(run.start_path)
    arguments = start["arguments"]
    match what:
        case "training":
            changed = _smaller_micro_batch(arguments, 2 if _is_kto(run) else 1)  # its KL term needs two answers
        case "evaluation":
            changed = _smaller_evaluation(arguments)
        case "answers":
            changed = fewer_answers(arguments)
    if not changed:
        return None
    given = {_EVALUATED: 8, _GENERATED: arguments.get(_ACCUMULATION), **arguments}
    told = ", ".join(f"{name} {given.get(name)} → {value}" for name, value in changed.items() if value is not None)
    start["arguments"] = {key: value for key, value in {**arguments, **changed}.items() if value is not None}
    start.setdefault("reduced", []).append({"step": step, "changes": told})
    write_start(run.start_path, start)
    return told


def reductions(run: Run) -> int:
    """How often the run was made to go on with less."""
    return len(read_start(run.start_path).get("reduced", ())) if run.start_path.is_file() else 0


def _smaller_micro_batch(arguments: Mapping[str, Any], least: int) -> dict[str, Any]:
    batch = int(arguments[_TRAINED])
    smaller = _divisor_below(batch)
    if smaller < least:
        return {}
    times = batch // smaller
    return {_TRAINED: smaller} | {
        key: int(arguments[key]) * times for key in (_ACCUMULATION, _GENERATED) if arguments.get(key)
    }


def _smaller_evaluation(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The answers to a held-out prompt stay in one batch."""
    smaller = int(arguments.get(_EVALUATED) or 8) // 2
    return {_EVALUATED: smaller} if smaller and smaller % int(arguments.get("num_generations_eval") or 1) == 0 else {}


def _is_kto(run: Run) -> bool:
    return read_yaml(run.recipe_path, TrainingError).get("method") == "kto"


def _divisor_below(batch: int) -> int:
    """The largest divisor of `batch` below it, 0 for 1: micro-batches that make up the same step."""
    return next((size for size in range(batch // 2, 0, -1) if batch % size == 0), 0)


def hint_of(what: What, else_hint: str = "") -> str:
    """What to do where nothing is left to make smaller of it."""
    if what != "answers":
        return else_hint
    fewer = "The answers to a prompt are written together: set training.num_generations or training."
    return f"{fewer}max_completion_length lower.\n{else_hint}".strip()


def too_little(when: str, hint: str = "") -> TooLittleMemoryError:
    """The error of memory that ran out where nothing can be made smaller."""
    why = f"memory ran out {when}, and there is nothing left to make smaller"
    return TooLittleMemoryError(why, hint=f"{hint}\n{_HINT}".strip())


@contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Memory that runs out within is told as what it was needed for, e.g. "to load the model"."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not ran_out_of_memory(error):
            raise
        raise TooLittleMemoryError(f"there is too little memory {what}", hint=_HINT) from None


def give_back(error: BaseException | None = None) -> None:
    """Free what a failed training held, on the GPU, too. The frames of `error` hold tensors."""
    import torch

    seen = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
    gc.collect()
    return_to_the_system()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def let_go(trainer: Any) -> None:
    """Free the weights and the optimizer's states of a training that has ended, whoever still holds the model."""
    import torch

    if trainer.optimizer is not None:
        trainer.optimizer.state.clear()
    for tensor in (*trainer.model.parameters(), *trainer.model.buffers()):
        tensor.grad = None
        tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        if getattr(tensor, "quant_state", None) is not None:
            tensor.quant_state = None
    give_back()


def evaluate_with_less(trainer: Any, run: Run, tell: Callable[[str], None]) -> None:
    """Have `trainer` do an evaluation that runs out of memory again with half as many rows at a time.

    Raises TooLittleMemoryError from its evaluate() where one row at a time is too much.
    """
    evaluate = trainer.evaluate

    def evaluated(*args: Any, **options: Any) -> dict[str, float]:
        while True:
            begun = random_state()
            try:
                return evaluate(*args, **options)
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
                give_back(error)
            less = take_less(run, trainer.state.global_step, "evaluation")
            if less is None:
                raise too_little("in an evaluation")
            tell(f"memory ran out in an evaluation; it begins again with {less}")
            trainer.args.per_device_eval_batch_size = int(read_start(run.start_path)["arguments"][_EVALUATED])
            for kept in ("_metrics", "_stored_metrics"):  # TRL's, of the batches that went well
                getattr(trainer, kept, {}).get("eval", {}).clear()
            give_back()
            set_random_state(begun)

    trainer.evaluate = evaluated


class StepStart:
    """Where the step in progress began: what a training that runs out of memory in it goes back to."""

    def __init__(self, trainer: Any, *, from_start: bool) -> None:
        """`from_start`: this process trains from the first step on, so that it can give up all that was done."""
        self._trainer, self._from_start = trainer, from_start
        self._began = monotonic()
        self._random: Any = None
        self._open: dict[str, Any] = {}
        self._weights_moved = False

    def attach(self) -> None:
        """Look on from now: where a step has ended, with its log, evaluation and checkpoint, the next one begins."""
        from transformers import TrainerCallback

        start, finish = self, self._trainer._maybe_log_save_evaluate

        def finished(*args: Any, **options: Any) -> None:
            start._weights_moved = True
            finish(*args, **options)
            start._random, start._open = random_state(), open_ends(start._trainer)
            start._weights_moved = False

        class Moving(TrainerCallback):
            def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
                start._weights_moved = True

        self._trainer._maybe_log_save_evaluate = finished
        self._trainer.add_callback(Moving())

    @property
    def worth_repeating_all(self) -> bool:
        """Whether so little was done that it is done again with less, and the result is exactly that of less."""
        return self._from_start and monotonic() - self._began < _WORTH_EXACTNESS

    def keep(self) -> None:
        """Write a checkpoint of it, unless the optimizer had begun to move weights. The training ends with that."""
        if self._random is None or self._weights_moved:
            return
        trainer = self._trainer
        trainer.model.zero_grad()
        put_back_open_ends(trainer, self._open)
        set_random_state(self._random)
        trainer._save_checkpoint(trainer.model, None)
