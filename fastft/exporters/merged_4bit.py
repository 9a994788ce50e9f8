"""The merged model in bitsandbytes' 4 bits, as transformers writes it: half a byte a weight, loads without quantising.

The settings are those of Unsloth's own 4-bit repositories: NF4 with double quantisation. Embeddings, output and norms
stay in 16 bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import ExportError

if TYPE_CHECKING:
    from fastft.exporters.workbench import Target, Workbench

_SHARD = "5GB"


def export(bench: Workbench, target: Target, out: Path) -> dict[str, Any]:  # noqa: ARG001
    """Quantise the merged model into `out`; returns how, for export.json. Holds the 4-bit model in memory."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from fastft.exporters.merged import copy_tokenizer
    from fastft.model_loading import only_weights

    merged = bench.merged
    dtype = getattr(torch, bench.dtype)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    bench.progress("quantize merged_4bit")(0, 1)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            merged, dtype=dtype, quantization_config=config, **only_weights(merged)
        )
        model.save_pretrained(out, max_shard_size=_SHARD)
    except (ValueError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(
            f"bitsandbytes can't quantise this model: {reason}", hint="Export merged_16bit, or a GGUF of 4 bits."
        ) from error
    copy_tokenizer(merged, merged, out)
    (out / "generation_config.json").write_bytes((merged / "generation_config.json").read_bytes())
    return {"dtype": bench.dtype, "quantized_from": "merged_16bit", "quantization": config.to_dict()}
