"""Makes the packaged model `fastft/tiny` again: `python -m fastft.tiny.build [--out DIR] [--seed 0] [--steps N]`.

The same seed and steps give the same bytes on the same machine. Everything is written beside its place and renamed.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from fastft.tiny.card import model_card
from fastft.tiny.pretrain import Plan, new_model, pretrain
from fastft.tiny.quickstart_data import rows
from fastft.tiny.score import exact, greedy_answers, heldout
from fastft.tiny.skills import SKILLS, conversation
from fastft.tiny.tokenizer import TURN, save_tokenizer, train_tokenizer
from fastft.tiny.world import Draw, World

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import GenerationMixin, LlamaForCausalLM

PACKAGED = Path(__file__).parent / "model"
SCORED = 100  # held-out conversations a skill


def build(out: Path, seed: int, plan: Plan) -> None:
    """Tokenizer, pretraining, scores and card into the folder `out`, which is replaced at the end."""
    world = World.from_seed(seed)
    tokenizer = make_tokenizer(world, seed)
    model = new_model(tokenizer, seed)
    print(f"{model.num_parameters():,} parameters, {plan.steps} steps of about {plan.tokens} tokens")
    pretrain(model, tokenizer, world, seed, plan)
    beside = out.with_name(f".{out.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_tokenizer(tokenizer, beside)
    save_model(model, beside)
    (beside / "README.md").write_text(describe(beside, tokenizer, world, seed, plan))
    shutil.rmtree(out, ignore_errors=True)
    beside.rename(out)


def make_tokenizer(world: World, seed: int) -> Tokenizer:
    """The tokenizer trained on the text of 20 000 conversations, a turn a text."""
    draw = Draw(world, "train", Random(f"tokenizer {seed}"))
    messages = (message for _ in range(20_000) for message in conversation(draw)[1])
    return train_tokenizer(f"{TURN}{message['role']}\n{message['content']}" for message in messages)


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Weights in bf16, config.json and generation_config.json."""
    from transformers import GenerationConfig

    model.bfloat16()
    model.generation_config = GenerationConfig(
        eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes 0600; the package is read by everyone


def scores(model: GenerationMixin, tokenizer: Tokenizer, world: World, count: int = SCORED) -> dict[str, float]:
    """Skill -> share of held-out answers that are exact, over `count` conversations each."""
    return {
        skill: exact(heldout(world, skill, count), lambda prompts: greedy_answers(model, tokenizer, prompts))
        for skill in SKILLS
    }


def describe(folder: Path, tokenizer: Tokenizer, world: World, seed: int, plan: Plan) -> str:
    """The model card, with the scores of the saved weights as they are and in 4-bit NF4."""
    columns = {}
    for kind, model in (("bf16", load(folder)), ("NF4", load(folder, nf4=True))):
        columns[kind] = scores(model, tokenizer, world)
        print(kind, {skill: round(score, 3) for skill, score in columns[kind].items()}, flush=True)
    model = load(folder)
    quickstart = exact(rows("quickstart_heldout"), lambda prompts: greedy_answers(model, tokenizer, prompts))
    config = model.config
    return model_card(
        columns, parameters=model.num_parameters(), layers=config.num_hidden_layers, hidden=config.hidden_size,
        heads=config.num_attention_heads, kv_heads=config.num_key_value_heads, vocabulary=config.vocab_size,
        seed=seed, steps=plan.steps, tokens=plan.tokens, count=SCORED, quickstart=quickstart,
    )  # fmt: skip


def load(folder: Path, *, nf4: bool = False) -> LlamaForCausalLM:
    """The model of `folder` in bf16 on the CPU, its linear layers in 4-bit NF4 if asked."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    ) if nf4 else None  # fmt: skip
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, device_map="cpu", quantization_config=quantization
    )
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=PACKAGED)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Plan().steps)
    arguments = parser.parse_args()
    build(arguments.out, arguments.seed, replace(Plan(), steps=arguments.steps))


if __name__ == "__main__":
    main()
