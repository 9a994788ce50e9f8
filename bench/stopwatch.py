"""What a training benchmark measures of any trainer: fed, real and supervised tokens a second, losses, peak memory.

Nothing is passed to the trainer and its collator is left alone: a collator of one's own would switch Unsloth's
padding-free batches off. What is fed is counted where a batch is trained on, as tensors that stay on the device until
the end, so that counting makes no step wait.
"""

from __future__ import annotations

import math
import resource
import statistics
import time
import zlib
from collections.abc import Sequence
from typing import Any

import psutil

Fed = dict[str, Any]  # fed, real, supervised and documents of a micro-batch: numbers, or tensors that hold one


def same_lora_start(model: Any) -> None:
    """Every `lora_A` as its name says, every `lora_B` zero: the same update in whatever library made it."""
    import torch

    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.zero_()
        if ".lora_A." in name:
            generator = torch.Generator().manual_seed(zlib.crc32(name[name.index("layers.") :].encode()))
            bound = 1 / math.sqrt(parameter.shape[1])  # as PEFT's: kaiming uniform with a = sqrt(5)
            drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            parameter.data.copy_(drawn)


def document_losses(model: Any, documents: Sequence[dict[str, list[int]]]) -> list[float]:
    """The loss of each document by itself, without padding: what all arms must agree on before they train.

    In the mode of training, which no arm's dropout changes: in eval mode bitsandbytes repacks 4-bit weights on a CPU.
    """
    import torch

    model.train()
    found = []
    with torch.no_grad(), torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=model.device.type != "cpu"):
        for document in documents:
            ids = torch.tensor([document["input_ids"]], device=model.device)
            labels = torch.tensor([document["labels"]], device=model.device)
            found.append(float(model(input_ids=ids, labels=labels).loss))
    return found


def measure(trainer: Any, *, seconds: float, warm_up: int) -> dict[str, Any]:
    """Train until `seconds` have passed since step `warm_up`, or to the end of the data; the figures of that time."""
    import torch
    from transformers import TrainerCallback

    cuda = torch.cuda.is_available()
    fed: list[Fed] = []
    ends: list[tuple[float, float, int]] = []  # seconds, this process's CPU seconds, micro-batches so far

    class Stopwatch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if cuda:
                torch.cuda.synchronize()
            ends.append((time.perf_counter(), time.process_time(), len(fed)))
            if len(ends) == 1:
                cold.append(time.time() - psutil.Process().create_time())
            if len(ends) > warm_up + 1 and ends[-1][0] - ends[warm_up - 1][0] > seconds:
                control.should_training_stop = True

    cold: list[float] = []
    step = trainer.training_step

    def counted(model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        fed.append(_count(inputs))
        return step(model, inputs, *rest, **named)

    trainer.training_step = counted
    trainer.add_callback(Stopwatch())
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    if len(ends) < warm_up + 2:
        raise RuntimeError(f"{len(ends)} optimiser steps: too few to measure after {warm_up} of warm-up; more rows")
    return {**_figures(fed, ends, warm_up), **_memory(cuda), "to_first_step_s": cold[0], **_curve(trainer, fed, ends)}


def _count(inputs: Any) -> Fed:
    ids, mask, positions = inputs["input_ids"], inputs.get("attention_mask"), inputs.get("position_ids")
    apart = positions is not None and mask is None  # documents laid end to end
    return {
        "fed": ids.numel(),
        "real": ids.numel() if mask is None else mask.sum(),
        "supervised": (inputs["labels"] != -100).sum(),
        "documents": (positions == 0).sum() if apart else ids.shape[0],
        "longest": ids.shape[-1],
    }


def _figures(fed: Sequence[Fed], ends: Sequence[tuple[float, float, int]], warm_up: int) -> dict[str, Any]:
    (start, cpu_start, first), (end, cpu_end, last) = ends[warm_up - 1], ends[-1]
    timed = [{key: int(number) for key, number in batch.items()} for batch in fed[first:last]]
    total = {key: sum(batch[key] for batch in timed) for key in ("fed", "real", "supervised", "documents")}
    steps = sorted(b[0] - a[0] for a, b in zip(ends[warm_up - 1 :], ends[warm_up:], strict=False))
    return {
        "supervised_per_s": total["supervised"] / (end - start),
        "real_per_s": total["real"] / (end - start),
        "supervised_per_cpu_s": total["supervised"] / (cpu_end - cpu_start),
        "useful_share": total["real"] / total["fed"],
        "documents_per_step": total["documents"] / len(steps),
        "fed_per_micro_batch": total["fed"] / len(timed),
        "longest_fed": max(batch["fed"] for batch in timed),
        "step_p50_s": statistics.median(steps),
        "step_p95_s": steps[int(len(steps) * 0.95)],
        "steps": len(steps),
        "measured_s": end - start,
    }


def _memory(cuda: bool) -> dict[str, int]:
    """Bytes at the peak: of the card's allocator, or of the whole process on a CPU."""
    import torch

    if not cuda:
        return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    free, total = torch.cuda.mem_get_info()
    return {
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "card_bytes": total - free,
    }


def _curve(trainer: Any, fed: Sequence[Fed], ends: Sequence[tuple[float, float, int]]) -> dict[str, list[Any]]:
    """(documents trained on, logged loss) of every log."""
    seen, so_far = [0], 0
    for (_, _, first), (_, _, last) in zip(((0.0, 0.0, 0), *ends), ends, strict=False):
        so_far += sum(int(batch["documents"]) for batch in fed[first:last])
        seen.append(so_far)
    logged = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return {"curve": [[seen[step], round(loss, 4)] for step, loss in logged if step < len(seen)]}
