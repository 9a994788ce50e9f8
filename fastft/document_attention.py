"""Attention on the CPU that computes each document of a packed batch alone, instead of masking what lies between them.

transformers' SDPA builds a mask of all tokens by all tokens of the batch, and torch's CPU kernel computes every entry
of it. Documents that don't see each other are blocks on that mask's diagonal: computed one by one they cost the sum of
their squared lengths, and give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "fastft_documents"
_SHORT = 384  # tokens up to which torch's CPU kernel is faster in float32 than in bfloat16: bench/cpu/attention.py


@dataclass(frozen=True, slots=True)
class Documents:
    """Where the documents of a batch of one row lie, as (first, end, mask); None as mask is causal attention."""

    blocks: tuple[tuple[int, int, torch.Tensor | None], ...]


def attend_by_document(model: Any) -> bool:
    """Let `model` compute attention document by document. False, and nothing changed, where it doesn't use SDPA."""
    from transformers import AttentionInterface, AttentionMaskInterface

    config = model.config.get_text_config()
    if config._attn_implementation not in ("sdpa", NAME):
        return False
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    config._attn_implementation = NAME
    return True


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., torch.Tensor] | None = None,
    **kwargs: Any,
) -> Any:
    """In place of transformers' `sdpa_mask`: its mask, or a batch's Documents if it is one packed row."""
    from transformers.masking_utils import sdpa_mask

    arguments = {"batch_size": batch_size, "q_length": q_length, "kv_length": kv_length, **kwargs}
    arguments |= {"q_offset": q_offset, "kv_offset": kv_offset, "mask_function": mask_function}
    packed = kwargs.get("attention_mask") is None and not kwargs.get("allow_is_causal_skip", True)
    whole = batch_size == 1 and q_length == kv_length and q_offset == kv_offset == 0
    if not packed or not whole or kwargs.get("use_vmap"):
        return sdpa_mask(**arguments)
    return _documents(mask_function, q_length, kwargs.get("device", "cpu"))


def _documents(mask_function: Any, length: int, device: Any) -> Documents:
    """The blocks of a causal mask: a token that doesn't see the one before it begins a block of its own.

    That holds for documents, and for chunked attention within them; in masks that go on growing backwards, as causal,
    sliding and chunked ones do, what lies before such a token stays out of sight for all that follow, too.
    """
    import torch

    places = torch.arange(length, device=device)
    zero = torch.zeros((), dtype=torch.long, device=device)
    seen = mask_function(zero, zero, places[1:], places[:-1])
    seen = seen.reshape(-1) if seen.numel() == length - 1 else seen.expand(length - 1)
    starts = [0, *(torch.nonzero(~seen).reshape(-1) + 1).tolist()]
    return Documents(
        tuple(
            (start, end, _block(mask_function, places[start:end], zero))
            for start, end in zip(starts, [*starts[1:], length], strict=True)
        )
    )


def _block(mask_function: Any, places: torch.Tensor, zero: torch.Tensor) -> torch.Tensor | None:
    """The mask of one document, or None if each of its tokens sees all before it.

    The last token's view tells: in a sliding or chunked window the first token is the first to go out of sight.
    """
    if bool(mask_function(zero, zero, places[-1:], places[:1]).all()):
        return None
    return mask_function(zero, zero, places[:, None], places[None, :]).expand(len(places), len(places))[None, None]


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' SDPA attention, document by document where the mask says Documents. Shapes are as there."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if not isinstance(attention_mask, Documents):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    parts = []
    for start, end, mask in attention_mask.blocks:
        q, k, v = (states[:, :, start:end] for states in (query, key, value))
        short = end - start <= _SHORT
        with torch.autocast("cpu", enabled=torch.is_autocast_enabled("cpu") and not short):
            states = (q.float(), k.float(), v.float()) if short else (q, k, v)
            part, _ = sdpa_attention_forward(module, *states, mask, **kwargs)
        parts.append(part.to(value.dtype))
    return torch.cat(parts, dim=1), None
