"""The section `export` of a recipe."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from fastft.recipe import checks
from fastft.recipe.section import Section

ExportFormat = Literal["merged_16bit", "merged_4bit", "gguf", "gguf_lora", "adapter", "hub"]
Quantization = Literal[
    "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_0", "q4_k_m", "q4_k_s", "q4_0", "q3_k_m", "q2_k",
    "not_quantized", "fast_quantized", "quantized",
]  # fmt: skip
# Unsloth's names (`unsloth/save.py`); not_quantized is the type of the merged weights.
UNSLOTH_TYPES = {"fast_quantized": "q8_0", "quantized": "q4_k_m"}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def _check_types(value: Any) -> Any:
    """Model pages write types in capitals: Q4_K_M."""
    value = checks.one_or_many(value)
    return [item.lower() if isinstance(item, str) else item for item in value] if isinstance(value, list) else value


def _check_hub_id(value: Any) -> Any:
    if value is None or (isinstance(value, str) and _HUB_ID.fullmatch(value)):
        return value
    raise checks.fault("a repository's name with its owner: me/my-model")


class ExportSection(Section):
    """What is made of the trained model, and checked against it."""

    formats: Annotated[tuple[ExportFormat, ...], BeforeValidator(checks.one_or_many)] = Field(
        default=(),
        description="merged_16bit: a plain Hugging Face folder. gguf: llama.cpp, Ollama, LM Studio. merged_4bit: "
        "bitsandbytes NF4. adapter: the LoRA with its tokenizer. gguf_lora: the LoRA for llama.cpp. hub: all the "
        "others, uploaded.",
    )
    quantization_method: Annotated[tuple[Quantization, ...], BeforeValidator(_check_types)] = Field(
        default=("q8_0",), description="One GGUF file for each."
    )
    dtype: Literal["bfloat16", "float16"] = Field(default="bfloat16", description="Type of the merged weights.")
    verify: bool = Field(
        default=True, description="Compare each export with the trained model; a difference is an error."
    )
    hub_model_id: Annotated[str | None, BeforeValidator(_check_hub_id)] = Field(
        default=None, description="Repository for formats: [hub]: me/my-model, me/my-model-lora, me/my-model-GGUF."
    )
    hub_private_repo: bool = Field(default=True, description="Whether repositories that hub makes are private.")

    @property
    def gguf_types(self) -> tuple[str, ...]:
        """The types of GGUF files asked for, by llama.cpp's names, without repetitions."""
        own = {**UNSLOTH_TYPES, "not_quantized": "bf16" if self.dtype == "bfloat16" else "f16"}
        types = dict.fromkeys(own.get(name, name) for name in self.quantization_method)
        return tuple(types) if "gguf" in self.formats else ()

    @property
    def needs_llama_cpp(self) -> bool:
        """Whether its converter has to know the model."""
        return "gguf" in self.formats or "gguf_lora" in self.formats
