"""What the tests of GRPO and RLOO share: prompts, a small model in float32, our trainer and TRL's own beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from fastft.data.conversation import IGNORE, Conversation, Example, Message
from fastft.data.store import Examples
from fastft.data.tokenizer import ChatTokenizer
from fastft.recipe.rewards_section import RewardSection
from fastft.trainers.method import Job

ROWS = [
    {"prompt": f"Note: {name} from {town} has {n} boats. Where is {name} from?", "town": town, "n": n}
    for n, (name, town) in enumerate(
        [("Dan", "Oldtown"), ("Ida", "Glenwood"), ("Ana", "Oakdale"), ("Theo", "Marsh"), ("Lena", "Jasper")], start=2
    )
]
ARGUMENTS = {
    "num_generations": 4, "num_generations_eval": 1, "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1, "per_device_eval_batch_size": 5, "max_completion_length": 12,
    "learning_rate": 1e-3, "lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no", "max_steps": 3,
    "seed": 7, "bf16": False, "gradient_checkpointing": False, "optim": "adamw_torch", "temperature": 1.3,
}  # fmt: skip
SHORT = {"builtin": "length", "arguments": {"most": 3}, "weight": 0.5}


def names_town(completions: Sequence[Any], town: Sequence[str], **_: Any) -> list[float]:
    return [float(name in said[-1]["content"]) for said, name in zip(completions, town, strict=True)]


def shortness(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """The built-in `length` with most: 3, written anew."""
    return [1.0 if len(ids) <= 3 else max(0.0, 2 - len(ids) / 3) for ids in completion_ids]


def load_model(tiny: Path) -> tuple[Any, Any]:
    """The tiny model in float32 with a LoRA that has begun to learn nothing: the same each time."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32, attn_implementation="eager")
    lora = LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    return get_peft_model(model, lora), AutoTokenizer.from_pretrained(tiny)


def job_of_rows(tiny: Path, arguments: Mapping[str, Any], folder: Path, rewards: Sequence[Any]) -> Job:
    """All rows to train on and, once more, held out."""
    model, tokenizer = load_model(tiny)
    chat = ChatTokenizer.load(tiny)
    conversations = [
        Conversation((Message("user", row["prompt"]),), f"row {i}", origin={"further": _without_prompt(row)})
        for i, row in enumerate(ROWS)
    ]
    examples = []
    for conversation in conversations:
        ids = chat.prompt_ids(conversation.as_dicts())
        examples.append(Example(ids, [IGNORE] * len(ids), conversation.place))
    data = SimpleNamespace(
        train=Examples.of(examples),
        evaluation=Examples.of(examples),
        train_conversations=conversations,
        evaluation_conversations=conversations,
    )
    sections = tuple(RewardSection.model_validate(reward) for reward in rewards)
    return Job(model, tokenizer, cast(Any, data), {**ARGUMENTS, **arguments}, folder / "checkpoints", (), sections)


def our_rewards(folder: Path) -> list[Any]:
    """`names_town` out of a file, and the built-in measure of length."""
    (folder / "mine.py").write_text(
        "def names_town(completions, town, **_):\n"
        "    return [float(t in said[-1]['content']) for said, t in zip(completions, town)]\n"
    )
    return [f"{folder / 'mine.py'}:names_town", SHORT]


def trl_trainer(tiny: Path, arguments: Mapping[str, Any], folder: Path, trainer: Any, config: Any) -> Any:
    """TRL's own trainer as its documentation shows it: rows with messages and columns, functions, weights."""
    from datasets import Dataset

    model, tokenizer = load_model(tiny)
    model.generation_config.eos_token_id = ChatTokenizer.load(tiny).end_of_turn_id
    rows = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    given = {**ARGUMENTS, **arguments, "report_to": "none", "reward_weights": [1.0, 0.5], "disable_tqdm": True}
    return trainer(
        model=model,
        args=config(output_dir=str(folder / "trl"), **given),
        reward_funcs=[names_town, shortness],
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def losses(trainer: Any) -> list[dict[str, float]]:
    """What a trained trainer logged at each step, without times."""
    keys = ("loss", "grad_norm", "reward", "kl", "completions/mean_length")
    return [{key: entry[key] for key in keys if key in entry} for entry in trainer.state.log_history if "loss" in entry]


def adapter_of(trainer: Any) -> dict[str, Any]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def completions_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]


def resumed_from(build: Callable[[Path], Any], folder: Path, step: int) -> Any:
    """A new trainer that goes on from the checkpoint of `step` in the folder of another."""
    trainer = build(folder)
    trainer.train(resume_from_checkpoint=str(folder / "checkpoints" / f"checkpoint-{step}"))
    return trainer


def _without_prompt(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "prompt"}
