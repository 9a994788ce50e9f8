"""The adapter as a GGUF file for llama.cpp's --lora, beside a GGUF of the base: by llama.cpp's own converter.

llama.cpp scales an update by alpha / rank. The converter writes PEFT's lora_alpha there, which is another number for
rsLoRA and for layers with ranks of their own; so here the scaling is in the matrices, and alpha says "as they are".
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import ExportError
from fastft.exporters.converter import converter_version, llama_cpp_sources

if TYPE_CHECKING:
    import torch

    from fastft.exporters.lora import Adapter
    from fastft.exporters.workbench import Target, Workbench

FILE = "adapter-f32.gguf"
_ELSEWHERE = "Export merged_16bit or gguf, which hold all that was trained."


def export(bench: Workbench, target: Target, out: Path) -> dict[str, Any]:  # noqa: ARG001
    """Write adapter-f32.gguf into `out`; returns how, for export.json.

    Raises ExportError for what llama.cpp's adapters can't hold: DoRA, layers trained whole, trained biases.
    """
    from fastft.exporters.adapter import NO_ADAPTER
    from fastft.exporters.lora import Adapter

    if not bench.source.is_adapter:
        raise ExportError(NO_ADAPTER, hint=_ELSEWHERE)
    scaled = bench.staging / "scaled_lora"
    scaled.mkdir()
    _write_scaled(Adapter(bench.source.folder), scaled)
    bench.progress("convert the LoRA to GGUF")(0, 1)
    _convert(scaled, bench.base.folder, out / FILE)
    return {"converter": f"llama.cpp's convert_lora_to_gguf.py ({converter_version()})", "type": "f32"}


def _write_scaled(adapter: Adapter, out: Path) -> None:
    """The adapter with each update's scaling multiplied into its second matrix, and no scaling beside it."""
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for name, change in adapter.changes.items():
        if set(change.parts) != {"a", "b"} or change.replacement:
            raise ExportError(f"The adapter does more to {name} than llama.cpp's adapters can hold", hint=_ELSEWHERE)
        first, second = change.parts["a"], change.parts["b"]
        tensors[first] = adapter.read(first).float()
        tensors[second] = adapter.read(second).float() * change.scaling
    save_file(tensors, out / "adapter_model.safetensors")
    # alpha 0 means no scaling in llama.cpp: `alpha ? scale * alpha / rank : scale`
    config = {**adapter.config, "lora_alpha": 0, "use_rslora": False, "alpha_pattern": {}, "rank_pattern": {}}
    (out / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def _convert(adapter: Path, base: Path, out: Path) -> None:
    """Run the converter in this process, which is the export's own."""
    script = llama_cpp_sources() / "convert_lora_to_gguf.py"
    arguments, path = sys.argv, list(sys.path)
    sys.argv = [script.name, str(adapter), "--base", str(base), "--outfile", str(out), "--outtype", "f32"]
    sys.path.insert(0, str(script.parent))
    try:
        runpy.run_path(str(script), run_name="__main__")
    except (SystemExit, NotImplementedError, ValueError, KeyError, TypeError, AssertionError) as error:
        if isinstance(error, SystemExit) and not error.code:
            return
        raise ExportError(
            f"llama.cpp's converter can't convert this adapter: {error or type(error).__name__}",
            hint=f"The log has its output. {_ELSEWHERE}",
        ) from error
    finally:
        sys.argv, sys.path[:] = arguments, path
