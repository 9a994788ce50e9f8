"""Families beyond the twelve, for bench/export/architectures.py: each passes, or is refused before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fastft.data.templates import named_template
from tests.exporters import architectures as known
from tests.exporters import vocabularies
from tests.exporters.architectures import FAMILIES, Family
from tests.exporters.vocabularies import QWEN

_BY_NAME = {family.name: family for family in FAMILIES}
_CHATML_BYTES = known._bytes(known._CHATML, QWEN)
_GPT2 = known._bytes(known._CHATML, None)
_CHATML_LLAMA2 = known._LLAMA2._replace(more=("<|im_start|>", "<|im_end|>"))


def _chatml(name: str, model: str, vocabulary: Any = _CHATML_BYTES, **options: Any) -> Family:
    return Family(name, model, vocabulary, known._CHATML_TEMPLATE, options)


def _no_model(name: str) -> Family:
    """Of a SentencePiece family, but saved by transformers 5: there is tokenizer.json and no tokenizer.model."""
    family = _BY_NAME[name]

    def vocabulary(folder: Path, texts: list[str]) -> None:
        family.vocabulary(folder, texts)
        (folder / "tokenizer.model").unlink()

    return replace(family, name=f"{name}-json", vocabulary=vocabulary)


def _saved_by_transformers(family: Family) -> Family:
    """As AutoTokenizer.save_pretrained writes the family's tokenizer again."""

    def vocabulary(folder: Path, texts: list[str]) -> None:
        from transformers import AutoTokenizer

        family.vocabulary(folder, texts)
        loaded = AutoTokenizer.from_pretrained(folder)
        for path in folder.iterdir():
            path.unlink()
        loaded.save_pretrained(folder)

    return replace(family, name=f"{family.name}-saved", vocabulary=vocabulary)


def _stripping(folder: Path, texts: list[str]) -> None:
    """Phi-3's own flags: white space after control tokens is dropped."""
    import json

    _BY_NAME["phi-3"].vocabulary(folder, texts)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    for token in content["added_tokens"]:
        token["rstrip"] = token["content"] not in ("<unk>", "<s>", "<|endoftext|>")
    path.write_text(json.dumps(content))
    vocabularies.write_config(folder, known._PHI3, "LlamaTokenizer")


def _added_later(folder: Path, texts: list[str]) -> None:
    """ChatML tokens added behind a Llama 2 vocabulary, of which tokenizer.model knows nothing (TinyLlama, Zephyr)."""
    from tokenizers import AddedToken, Tokenizer

    vocabularies.sentencepiece(folder, texts, known._LLAMA2, style="llama", tokenizer_class="LlamaTokenizer")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in _CHATML_LLAMA2.more])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}'
    )


_MOE: dict[str, Any] = {"moe_intermediate_size": 256, "num_experts": 4, "num_experts_per_tok": 2}

MORE = (
    Family("llama-3.2-real", "Llama", known._real("llama-3.2", known._LLAMA3), known._shared_template("llama-3.2"),
           {"tie_word_embeddings": True}),
    Family("qwen2.5-real", "Qwen2", known._real("qwen2.5", known._CHATML), known._shared_template("qwen2.5"),
           {"tie_word_embeddings": True}),
    *(_no_model(name) for name in ("gemma-2", "gemma-3", "mistral", "phi-3", "yi")),
    *(_saved_by_transformers(_BY_NAME[name]) for name in ("gemma-2", "mistral", "yi", "qwen3", "llama-3")),
    Family("phi-3-strip", "Phi3", _stripping, known._PHI3_TEMPLATE, _BY_NAME["phi-3"].options),
    Family("phi-4-mini", "Phi3", _CHATML_BYTES, known._CHATML_TEMPLATE, {"partial_rotary_factor": 0.75,
           "tie_word_embeddings": True}),
    Family("tinyllama-chatml", "Llama", _added_later, known._CHATML_TEMPLATE),
    Family("gemma", "Gemma", _BY_NAME["gemma-2"].vocabulary, named_template("gemma"), {"head_dim": 128}),
    _chatml("qwen2-moe", "Qwen2Moe", **_MOE, shared_expert_intermediate_size=256),
    _chatml("qwen3-moe", "Qwen3Moe", **_MOE, head_dim=128, norm_topk_prob=True),
    _chatml("mixtral", "Mixtral", num_local_experts=4),
    _chatml("phi", "Phi", _GPT2),
    _chatml("stablelm", "StableLm"),
    _chatml("cohere", "Cohere", logit_scale=0.25),
    _chatml("cohere2", "Cohere2", logit_scale=0.25, sliding_window=64),
    _chatml("glm4", "Glm4", head_dim=64),
    _chatml("olmo", "Olmo"),
    _chatml("olmo3", "Olmo3", sliding_window=64),
    _chatml("olmoe", "Olmoe", num_experts=4, num_experts_per_tok=2),
    _chatml("exaone4", "Exaone4", sliding_window=64, sliding_window_pattern=2),
    _chatml("nemotron", "Nemotron"),
    _chatml("starcoder2", "Starcoder2", _GPT2),
    _chatml("gpt-neox", "GPTNeoX", _GPT2),
    _chatml("gpt2", "GPT2", _GPT2, n_embd=256, n_layer=2, n_head=4, n_positions=512),
    _chatml("ministral", "Ministral", head_dim=64),
    _chatml("lfm2", "Lfm2", layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
    _chatml("qwen3-next", "Qwen3Next", **_MOE, head_dim=64, shared_expert_intermediate_size=256,
            linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=64, linear_value_head_dim=64,
            layer_types=["linear_attention", "full_attention"]),
    _chatml("qwen3.5", "Qwen3_5", head_dim=64, linear_num_key_heads=2, linear_num_value_heads=4,
            linear_key_head_dim=64, linear_value_head_dim=64, layer_types=["linear_attention", "full_attention"]),
    _chatml("granite-moe", "GraniteMoe", num_local_experts=4),
    _chatml("seed-oss", "SeedOss", head_dim=64),
    _chatml("arcee", "Arcee"),
    _chatml("apertus", "Apertus"),
    _chatml("ernie4.5", "Ernie4_5"),
    _chatml("hunyuan", "HunYuanDenseV1", head_dim=64),
    _chatml("gpt-oss", "GptOss", num_local_experts=4, num_experts_per_tok=2, head_dim=64,
            layer_types=["sliding_attention", "full_attention"]),
    _chatml("deepseek-v3", "DeepseekV3", n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=256,
            n_group=1, topk_group=1, first_k_dense_replace=1, num_key_value_heads=4),
    _chatml("falcon-h1", "FalconH1", head_dim=64, mamba_d_ssm=256, mamba_n_heads=4, mamba_d_head=64),
    _chatml("bloom", "Bloom", n_layer=2, n_head=4),
    _chatml("mpt", "Mpt", d_model=256, n_heads=4, n_layers=2, max_seq_len=512),
    _chatml("falcon", "Falcon", new_decoder_architecture=True, num_kv_heads=2),
    _chatml("opt", "OPT"),
)  # fmt: skip
