"""Small random models and adapters for the export tests, made with transformers and PEFT alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TINY_SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "vocab_size": 1536,
}  # fmt: skip


def random_model(kind: str, **options: Any) -> Any:
    """A seeded causal language model in fp32, of the class `kind` of transformers ("Llama", "Qwen2", …)."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**TINY_SIZES, **options})
    return getattr(transformers, f"{kind}ForCausalLM")(config)


def save_model(model: Any, folder: Path, tokenizer: Path, **options: Any) -> Path:
    """Save as a model folder in bf16 with the tokenizer files of the folder `tokenizer`."""
    import shutil

    import torch

    model.to(torch.bfloat16).save_pretrained(folder, **options)
    for path in tokenizer.glob("*token*"):
        shutil.copy(path, folder)
    shutil.copy(tokenizer / "chat_template.jinja", folder)
    return folder


def save_adapter(base: Path, folder: Path, tokenizer: Path, **lora: Any) -> Path:
    """A LoRA with random, nowhere zero matrices for the model `base`, saved by PEFT with the tokenizer's files."""
    import shutil

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            noise = torch.randn_like(parameter) * 0.05
            parameter.data = parameter.data.abs() + noise.abs() if "magnitude" in name else parameter.data + noise
    adapted.save_pretrained(str(folder))
    for path in (*tokenizer.glob("*token*"), tokenizer / "chat_template.jinja"):
        shutil.copy(path, folder)
    return folder


def peft_merge(base: Path, adapter: Path) -> dict[str, Any]:
    """The reference: PEFT's own merge_and_unload in fp32, then cast to bf16."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged: Any = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return dict(merged.to(torch.bfloat16).state_dict())
