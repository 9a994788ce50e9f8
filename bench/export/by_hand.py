"""A LoRA to GGUF as it is done by hand: PEFT merges, convert_hf_to_gguf.py converts, llama-quantize quantises.

Each step in a process of its own, as one would type it; what each took is given back.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fastft.exporters.converter import llama_cpp_sources

_MERGE = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
AutoTokenizer.from_pretrained(base).save_pretrained(out)
"""
# The converter knows tokenizers by a hash and refuses the one of these random models; how it splits is named for it.
_CONVERT = """
import runpy, sys
from pathlib import Path
sources = Path(sys.argv[1])
sys.path[:0] = [str(sources), str(sources / "gguf-py")]
import conversion
conversion.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
sys.argv = sys.argv[1:]
runpy.run_path(str(sources / "convert_hf_to_gguf.py"), run_name="__main__")
"""


def to_gguf(base: Path, adapter: Path, out: Path, types: Sequence[str], program: Path) -> dict[str, float]:
    """Seconds of merging, converting and each quantisation. Raises CalledProcessError if a step fails."""
    merged, converted = out / "merged", out / "bf16.gguf"
    sources = str(llama_cpp_sources())
    commands = {
        "merge_s": [sys.executable, "-c", _MERGE, str(base), str(adapter), str(merged)],
        "convert_s": [
            *(sys.executable, "-c", _CONVERT, sources, str(merged)),
            *("--outfile", str(converted), "--outtype", "bf16"),
        ],
    }
    for kind in types:
        commands[f"{kind}_s"] = [str(program), str(converted), str(out / f"{kind}.gguf"), kind]
    return {name: _seconds(command) for name, command in commands.items()}


def _seconds(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started
