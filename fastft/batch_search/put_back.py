"""Training for a moment without a trace: weights, what hangs on the modules, and the random state are put back."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastft.trainers.measuring import aside


@contextmanager
def put_back(model: Any, *, weights: bool = True) -> Iterator[None]:
    """Whatever trainers do to `model` within is undone: its trained weights are bit-equal afterwards.

    Without `weights` these have no copy, and nothing within may change them.

    Trainers cast weights, add adapters and hooks, wrap forward() and set flags. So all attributes of all modules are
    put back, with the contents of the tables among them (parameters, submodules, hooks).
    """
    import torch

    attributes = _attributes([*model.modules(), *_configs(model)])
    parameters = [(p, p.data.dtype, p.requires_grad, _copy(p) if weights else None) for p in model.parameters()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        with aside(model):
            yield
    finally:
        _restore(attributes)
        with torch.no_grad():
            for parameter, dtype, trained, kept in parameters:
                if kept is not None:
                    parameter.data = kept.to(device=parameter.device, dtype=dtype)
                parameter.requires_grad_(trained)
                parameter.grad = None
            for buffer, kept in buffers:
                buffer.copy_(kept)
        tidy()


def _copy(parameter: Any) -> Any:
    """What is trained, in the host's memory: the card's is for the search. Frozen weights don't change."""
    import torch

    return (
        parameter.data.detach().to("cpu", copy=True, memory_format=torch.preserve_format)
        if (parameter.requires_grad)
        else None
    )


def _configs(model: Any) -> list[Any]:
    """The model's own config, to which trainers write (use_cache, output_router_logits)."""
    config = model.config
    found = (config, config.get_text_config(), getattr(model, "generation_config", None))
    return list({id(each): each for each in found if each is not None}.values())


def _attributes(owners: list[Any]) -> list[tuple[Any, dict[str, Any], dict[str, Any]]]:
    """Each owner with its attributes, and apart the contents of those that are tables."""
    return [
        (
            owner,
            dict(vars(owner)),
            {name: dict(value) for name, value in vars(owner).items() if isinstance(value, dict)},
        )
        for owner in owners
    ]


def _restore(attributes: list[tuple[Any, dict[str, Any], dict[str, Any]]]) -> None:
    for owner, values, contents in attributes:
        own = vars(owner)
        own.clear()
        own.update(values)
        for name, content in contents.items():
            values[name].clear()
            values[name].update(content)


def tidy() -> None:
    """Give memory back that nobody holds any more, and forget the peak: it was the search's."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
