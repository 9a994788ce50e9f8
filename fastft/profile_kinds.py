"""What the operations of a profile are for: told by their names, and by the names of those they were called by."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds that operations of one kind or name took, and how often they were called."""

    name: str
    seconds: float
    calls: int


# What an operation is within, whatever it is itself: the nearest of these that is around it.
_AROUND = (
    ("data", r"DataLoader"),
    ("optimiser", r"Optimizer\.(step|zero_grad)|clip_grad|_foreach_norm|_fused_adam|multi_tensor_apply|kOptimizer"),
    ("dequantisation", r"[dD]equant|quantize_4bit"),
    ("attention", r"scaled_dot_product|ScaledDotProduct|flash|fmha|varlen|mem_eff|efficient_attention|[Aa]ttention"),
    ("cross entropy", r"cross_entropy|CrossEntropy|nll_loss|NllLoss|log_softmax|LogSoftmax|logsumexp|FusedLoss"),
)
# What it is itself, where it is within none of those.
_ITSELF = (
    ("matmul", r"\b(mm|addmm|bmm|baddbmm|addmv|mv|matmul|linear|mkldnn_linear|einsum)\b|gemm|gemv|cutlass|nvjet|xmma"),
    ("copies", r"copy_|to_copy|Memcpy|Memset|\b(contiguous|clone)\b"),
    (
        "norm, rope, elementwise",
        r"norm|rope|rotary|silu|swiglu|gelu|softmax|elementwise|vectorized|triton|reduce|index|gather|embedding|sigmoid"
        r"|\b(add|mul|sub|div|neg|sum|mean|pow|rsqrt|sqrt|exp|log|where|masked_fill|fill|zero|eq|ne|gt|lt|ge|le|cos|sin"
        r"|cat|cumsum|sort|any|all|isnan|abs|max|min|argmax)_?\b",
    ),
)
REST = "Python and other"


def kind_of(name: str, callers: Sequence[str] = ()) -> str:
    """The kind of an operation by its name, where `callers` are those around it, the nearest first."""
    for one in (name, *callers):
        for kind, pattern in _AROUND:
            if re.search(pattern, one):
                return kind
    for kind, pattern in _ITSELF:
        if re.search(pattern, name):
            return kind
    return REST


def spent_by_kind(events: Iterable[Any], seconds: float, *, on_gpu: bool) -> tuple[Spent, ...]:
    """`seconds` of steps split by kind, the largest first. `events` are the profiler's.

    On a GPU it is the time of its kernels, and what none of them ran in is idle; on the CPU the time of each operation
    without those it called, and what no operation ran in is Python's and everything else's.
    """
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for name, callers, taken in _timed(events, on_gpu=on_gpu):
        entry = spent[kind_of(name, callers)]
        entry[0] += taken
        entry[1] += 1
    rest = max(0.0, seconds - sum(taken for taken, _ in spent.values()))
    spent["idle: waiting for Python" if on_gpu else REST][0] += rest
    return _sorted(spent)


def top_operations(events: Iterable[Any], *, on_gpu: bool, number: int = 8) -> tuple[Spent, ...]:
    """The operations (on a GPU: kernels) that took most, by name."""
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for name, _, taken in _timed(events, on_gpu=on_gpu):
        spent[name][0] += taken
        spent[name][1] += 1
    return _sorted(spent)[:number]


def _sorted(spent: dict[str, list[float]]) -> tuple[Spent, ...]:
    found = (Spent(name, seconds, int(calls)) for name, (seconds, calls) in spent.items() if seconds > 0)
    return tuple(sorted(found, key=lambda one: -one.seconds))


def _timed(events: Iterable[Any], *, on_gpu: bool) -> Iterator[tuple[str, list[str], float]]:
    """(name, names around it from the nearest, seconds of its own) of every operation or kernel.

    The profiler's own marks of its steps, and what waits for other threads, are no work.
    """
    for event in events:
        if _is_mark(event.name):
            continue
        callers = list(_callers(event))
        if on_gpu:
            for kernel in event.kernels:
                yield kernel.name, [event.name, *callers], kernel.duration / 1e6
        elif (own := event.self_cpu_time_total) > 0:
            yield event.name, callers, own / 1e6


def _is_mark(name: str) -> bool:
    return name.startswith("ProfilerStep")


def _callers(event: Any) -> Iterator[str]:
    above = event.cpu_parent
    while above is not None:
        if not _is_mark(above.name):
            yield above.name
        above = above.cpu_parent
