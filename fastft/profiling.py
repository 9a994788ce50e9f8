"""`profile`: some steps of a recipe's training under torch's profiler, and where their time and memory went."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fastft import backend
from fastft.checking import check
from fastft.errors import TrainingError
from fastft.files import at_home
from fastft.profile_kinds import Spent, spent_by_kind, top_operations
from fastft.quiet import library_output_to

if TYPE_CHECKING:
    from fastft.checking import CheckReport
    from fastft.recipe.schema import Recipe
    from fastft.throughput import Meter

_WARMUP = 3  # steps before the measured ones: kernels are compiled, memory is taken
TRACE = "trace.json.gz"


@dataclass(frozen=True, slots=True)
class Profile:
    """What `steps` steps took. Seconds are those of all of them together, bytes those at the peak."""

    steps: int
    seconds: float
    on_gpu: bool
    kinds: tuple[Spent, ...]
    operations: tuple[Spent, ...]
    memory: Mapping[str, int]
    rates: Mapping[str, Any]
    trace: Path


def profile(
    source: Path | str | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    *,
    steps: int = 10,
    out: Path | str = "profile",
    console: Console | None = None,
) -> Profile:
    """Train `steps` steps of the recipe under torch's profiler, after some to warm up; write a trace into folder `out`.

    Nothing else is left behind: no run directory, no checkpoint. Raises what `train` raises before its first step, and
    TrainingError if a step fails.
    """
    checked = check(source, overrides)
    out = at_home(out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    log = out / "profile.log"
    with tempfile.TemporaryDirectory() as scratch, library_output_to(log, console or Console()) as user:
        return _profiled(checked, Path(scratch) / "run" / "checkpoints", steps, out / TRACE, user)


def _profiled(checked: CheckReport, checkpoints: Path, steps: int, trace: Path, console: Console) -> Profile:
    from fastft.progress import working
    from fastft.throughput import meter_for

    checkpoints.parent.mkdir(parents=True)
    with working(console, "loading the model"):
        trainer = trainer_for(checked, checkpoints, _WARMUP + steps)
    meter = meter_for(checked, trainer.model, checked.arguments)
    meter.attach(trainer)
    recorder = _recorder(steps, meter)
    trainer.add_callback(recorder)
    with working(console, f"{_WARMUP} steps to warm up, {steps} under the profiler"):
        _train(trainer, trace.with_name("profile.log"))
    with working(console, "reading the profile"):
        _write_trace(recorder.profiler, trace)
        events = recorder.profiler.events()
        on_gpu = trainer.args.device.type == "cuda"
        kinds = spent_by_kind(events, recorder.seconds, on_gpu=on_gpu)
        operations = top_operations(events, on_gpu=on_gpu)
    return Profile(steps, recorder.seconds, on_gpu, kinds, operations, memory_by_part(trainer), meter.summary(), trace)


def trainer_for(checked: CheckReport, checkpoints: Path, steps: int) -> Any:
    """The trainer as `train` would have it, for so many steps, without evaluations and checkpoints."""
    from fastft.model import load_model
    from fastft.stages import prepare_stage
    from fastft.trainers import find_method, trainer_builder
    from fastft.trainers.method import Job

    recipe, method = checked.recipe, find_method(checked.recipe.method)
    prepare_stage(recipe.model.model_name, Console(quiet=True))
    model, tokenizer = load_model(
        recipe.model, recipe.lora, classifies=method.classifies, checkpointing=checked.checkpointing
    )
    tokenizer.chat_template = checked.tokenizer.chat_template
    short = {"max_steps": steps, "save_strategy": "no", "eval_strategy": "no", "report_to": "none"}
    arguments = {**checked.arguments, **short, "load_best_model_at_end": False}
    job = Job(model, tokenizer, checked.data, arguments, checkpoints, (), recipe.rewards)
    return trainer_builder(recipe.method)(job)


def _train(trainer: Any, log: Path) -> None:
    try:
        trainer.train()
    except (RuntimeError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        step = trainer.state.global_step
        raise TrainingError(
            f"the profiled training stopped at step {step}: {reason}", hint=f"What the libraries said is in {log}."
        ) from error


def _recorder(steps: int, meter: Meter) -> Any:
    """A TrainerCallback that runs the profiler, and `meter` anew, over the `steps` steps after those to warm up.

    Its `seconds` are the steps' own, on the monotonic clock, with the GPU waited for before and after.
    """
    import torch
    from torch.profiler import ProfilerAction, ProfilerActivity
    from transformers import TrainerCallback

    gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]

    class Recorder(TrainerCallback):
        def __init__(self) -> None:
            self.profiler = torch.profiler.profile(
                activities=activities,
                profile_memory=True,
                schedule=lambda _: ProfilerAction.RECORD,  # without one the trace doesn't show the steps
            )
            self.seconds = 0.0
            self.began = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if state.global_step == _WARMUP:
                _wait(gpu)
                meter.restart()
                self.profiler.start()
                self.began = time.perf_counter()
            elif state.global_step == _WARMUP + steps:
                _wait(gpu)
                self.seconds = time.perf_counter() - self.began
                self.profiler.stop()
            elif state.global_step > _WARMUP:
                self.profiler.step()

    return Recorder()


def _wait(gpu: bool) -> None:
    import torch

    if gpu:
        torch.cuda.synchronize()


def _write_trace(profiler: Any, trace: Path) -> None:
    """The trace in Chrome's format, compressed: Perfetto reads it so."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(plain))
        partial = trace.with_name(f".{trace.name}.partial")
        with plain.open("rb") as source, gzip.open(partial, "wb", compresslevel=5) as target:
            shutil.copyfileobj(source, target)
        partial.replace(trace)


def memory_by_part(trainer: Any) -> dict[str, int]:
    """Bytes by what holds them, after training; the rest of the peak is what no tensor here accounts for."""
    from fastft.throughput import peak_memory

    trained = dict(backend.trainable_parameters(trainer.model))
    frozen = sum(_stored(p) for name, p in trainer.model.named_parameters() if name not in trained)
    parts = {
        "frozen weights": frozen,
        "trained weights": sum(p.nbytes for p in trained.values()),
        "gradients": sum(p.nbytes for p in trained.values()),  # of the same type; they are freed after each step
        "optimiser": sum(_nbytes(state) for state in trainer.optimizer.state.values()),
    }
    peak = peak_memory()
    on_gpu = trainer.args.device.type == "cuda"
    rest = "activations and buffers" if on_gpu else "activations, buffers and libraries"
    return {**parts, rest: max(0, peak - sum(parts.values())), "peak": peak}


def _stored(parameter: Any) -> int:
    """Bytes of a frozen weight, with the constants of its quantisation."""
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return int(parameter.nbytes)
    nested = getattr(state, "state2", None)
    tensors = (state.absmax, state.code, *((nested.absmax, nested.code) if nested is not None else ()))
    return int(parameter.nbytes) + sum(int(tensor.nbytes) for tensor in tensors)


def _nbytes(state: Any) -> int:
    return sum(int(value.nbytes) for value in state.values() if hasattr(value, "nbytes"))
