"""TRL's own trainers, without Unsloth and fastft: `python stock_losses.py JOBS OUT` in a process of its own.

JOBS is a JSON list of {trainer, config, arguments, base, adapter, rows}; OUT gets the list of the losses logged at each
step. `trainer` and `config` are "module:Class". The model is transformers' and the adapter PEFT's, both in float32.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


class _PlainLogProbs:
    """What TRL's Triton kernel computes, which runs on a GPU alone: in torch, with its derivatives."""

    @staticmethod
    def apply(hidden: Any, weight: Any, bias: Any, targets: Any, temperature: float, *rest: Any) -> tuple[Any, ...]:
        from torch.nn import functional

        _, softcap, scale, outputs = rest
        assert softcap is None
        logits = functional.linear(hidden, weight, bias).float() * scale
        logs = functional.log_softmax(logits / temperature, dim=-1)
        entropy = -(logs.exp() * logs).sum(-1) if "entropy" in outputs else None
        mean = logits.mean(-1) if "mean_logits" in outputs else None
        top = logits.argmax(-1) == targets if "is_top1" in outputs else None
        return logs.gather(-1, targets[:, None])[:, 0], entropy, None, mean, top


def losses(job: dict[str, Any]) -> list[float]:
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["base"])
    tokenizer.chat_template = job["chat_template"]
    base = AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32)
    model = PeftModel.from_pretrained(base, job["adapter"], is_trainable=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = _named(job["trainer"])(
            model=model,
            args=_named(job["config"])(output_dir=folder, use_cpu=True, report_to="none", **job["arguments"]),
            train_dataset=Dataset.from_list(job["rows"]),
            processing_class=tokenizer,
        )
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    jobs, out = map(Path, sys.argv[1:])
    import torch

    if not torch.cuda.is_available():
        import trl.trainer.utils

        trl.trainer.utils.__dict__["_ChunkedLogProbFunction"] = _PlainLogProbs
    out.write_text(json.dumps([losses(job) for job in json.loads(jobs.read_text())]))
