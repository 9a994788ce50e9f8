"""Makes the packaged model `fastft/tiny` again: `python -m fastft.tiny.build [--out DIR] [--seed 0] [--steps N]`.

The same seed and steps give the same bytes on the same machine. Everything is written beside its place and renamed.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from fastft.tiny.pretrain import Plan, new_model, pretrain
from fastft.tiny.score import exact, greedy_answers, heldout
from fastft.tiny.skills import SKILLS, conversation
from fastft.tiny.tokenizer import TURN, save_tokenizer, train_tokenizer
from fastft.tiny.world import Draw, World

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

PACKAGED = Path(__file__).parent / "model"


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
    print(scores(model.eval(), tokenizer, world))
    shutil.rmtree(out, ignore_errors=True)
    beside.rename(out)


def make_tokenizer(world: World, seed: int) -> Tokenizer:
    """The tokenizer trained on the text of 20 000 conversations, a turn a text."""
    draw = Draw(world, "train", Random(f"tokenizer {seed}"))
    messages = (message for _ in range(20_000) for message in conversation(draw)[1])
    return train_tokenizer(f"{TURN}{message['role']}\n{message['content']}" for message in messages)


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Weights in bf16, config.json and generation_config.json."""
    import torch
    from transformers import GenerationConfig

    model.to(dtype=torch.bfloat16)
    model.generation_config = GenerationConfig(
        eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id, max_length=None
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


def scores(model: PreTrainedModel, tokenizer: Tokenizer, world: World, count: int = 100) -> dict[str, float]:
    """Skill -> share of held-out answers that are exact, over `count` conversations each."""
    def answer(prompts):
        return greedy_answers(model, tokenizer, prompts)

    return {skill: exact(heldout(world, skill, count), answer) for skill in SKILLS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=PACKAGED)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Plan().steps)
    arguments = parser.parse_args()
    build(arguments.out, arguments.seed, replace(Plan(), steps=arguments.steps))


if __name__ == "__main__":
    main()
