"""Which attention computes: Unsloth's own dispatcher is asked with the facts of the real batch."""

from __future__ import annotations

import sys
from typing import Any

from fastft.fastpath.batch import Batch
from fastft.fastpath.lost import BY_DOCUMENT, Lost

_NAMES = {
    "flash_varlen": "FlashAttention varlen",
    "flash_dense": "FlashAttention",
    "xformers": "xformers",
    "sdpa": "SDPA",
}


def compute_dtype(trainer: Any) -> Any:
    """The type matrices are multiplied in: that of autocast, else the model's."""
    import torch

    half = torch.bfloat16 if trainer.args.bf16 else torch.float16 if trainer.args.fp16 else None
    return half or trainer.model.dtype


def attention_of(model: Any, batch: Batch | None, dtype: Any) -> tuple[str, Lost | None]:
    """The name of what computes attention in `dtype`, and what is lost by it.

    On Unsloth's own path (`unsloth/utils/attention_dispatch.py`) packed sequences go to FlashAttention, torch's varlen
    kernel, xformers, or SDPA one document at a time, in this order; elsewhere transformers' setting holds.
    """
    dispatch = sys.modules.get("unsloth.utils.attention_dispatch")
    if dispatch is None or not getattr(model, "_unsloth_fast_path", False):
        return str(model.config.get_text_config()._attn_implementation), None  # what transformers itself reads
    if batch is None or not batch.apart:
        masked = batch is not None and batch.masked and batch.padding > 0
        name = _NAMES[dispatch.select_attention_backend(False)]
        return ("SDPA with a padding mask" if masked else name), None
    backend = dispatch.select_attention_backend(True)
    if backend != dispatch.SDPA:
        return _NAMES[backend], None
    if varlen_takes(dispatch, model, dtype):
        return "torch varlen", None
    if dispatch._SDPA_PACKED_SEGMENTS:
        return "SDPA document by document", Lost("packed attention", why_no_varlen(dispatch, model, dtype), BY_DOCUMENT)
    cause = "UNSLOTH_SDPA_PACKED_SEGMENTS is off"
    return "SDPA with a dense mask", Lost("packed attention", cause, "time and memory grow with the square of a pack")


def varlen_takes(dispatch: Any, model: Any, dtype: Any) -> bool:
    """Whether torch's varlen kernel takes this model's queries, by the dispatcher's own test on empty ones."""
    import torch

    config, device = model.config.get_text_config(), model.device
    heads = int(config.num_attention_heads)
    wide = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    query = torch.empty(1, heads, 8, wide, device=device, dtype=dtype)
    keys = torch.empty(1, int(config.num_key_value_heads), 8, wide, device=device, dtype=dtype)
    return bool(dispatch._torch_varlen_takes(query, keys, keys, {}, True, None))


def why_no_varlen(dispatch: Any, model: Any, dtype: Any) -> str:
    import torch

    if dispatch._TORCH_VARLEN_ATTN is None:
        return f"torch {torch.__version__} has no varlen kernel that Unsloth takes (2.12 has), and no FlashAttention"
    if model.device.type == "cuda" and torch.cuda.get_device_capability(model.device)[0] < 8:
        return "torch's varlen kernel needs compute capability 8.0, and xformers doesn't run here"
    return f"torch's varlen kernel doesn't take this model's heads in {str(dtype).removeprefix('torch.')}"
