"""Our trainers learn what TRL's own learn: the same loss at every step, from the same model, rows and seed.

TRL's side runs without Unsloth and fastft (`stock_losses.py`): transformers' model, PEFT's adapter, TRL's class, and
the rows in TRL's conversational form, which TRL renders and tokenises itself. The chat template is one that writes
nothing after an answer's end of turn: there TRL's ids are ours; with others TRL also learns what follows that token.
Supervised fine-tuning gets finished ids, because TRL tells answers only by marks that this template doesn't have.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastft.data.conversation import Conversation
from fastft.data.prepare import PreparedData, prepare_data
from fastft.data.tokenizer import ChatTokenizer
from fastft.recipe.schema import DataSection, LoraSection, ModelSection
from fastft.trainers.kto import feeding_order

pytestmark = pytest.mark.slow

TEMPLATE = (
    "{%- for message in messages %}{{- '' if loop.first else '\\n' }}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '\\n<|im_start|>assistant\\n' }}{%- endif %}"
)
ARGUMENTS = {
    "max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 2e-3, "logging_steps": 1, "max_length": 64,
    "lr_scheduler_type": "constant", "optim": "adamw_torch", "seed": 7, "bf16": False, "save_strategy": "no",
    "gradient_checkpointing": False,
}  # fmt: skip
# method -> TRL's classes, data file's kind, and arguments beside ARGUMENTS; several variants of a method
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sft": ("trl:SFT", "conversation", {"loss_type": "nll"}),
    "dpo": ("trl:DPO", "preference", {}),
    "dpo, several losses": (
        "trl:DPO",
        "preference",
        {"loss_type": ["ipo", "robust", "sft"], "loss_weights": [0.5, 1.0, 0.2], "label_smoothing": 0.1, "beta": 0.3},
    ),
    "dpo, another divergence": ("trl:DPO", "preference", {"f_divergence_type": "js_divergence", "ld_alpha": 0.5}),
    "dpo, precomputed": ("trl:DPO", "preference", {"precompute_ref_log_probs": True}),
    "orpo": ("trl.experimental.orpo:ORPO", "preference", {}),
    "cpo": ("trl.experimental.cpo:CPO", "preference", {"label_smoothing": 0.1}),
    "cpo, simpo": ("trl.experimental.cpo:CPO", "preference", {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0}),
    "kto": ("trl:KTO", "unpaired", {"undesirable_weight": 1.3}),
    "kto, apo": ("trl:KTO", "unpaired", {"loss_type": "apo_zero_unpaired"}),
    "kto, precomputed": ("trl:KTO", "unpaired", {"precompute_ref_log_probs": True}),
}


def _data(kind: str, tokenizer: ChatTokenizer, folder: Path) -> PreparedData:
    """16 rows of different lengths."""
    said = [
        (f"Say {n}." * (1 + n % 3), "one two three " * (1 + n % 4) + str(n), "no " * (1 + n % 5)) for n in range(16)
    ]
    user = [[{"role": "user", "content": question}] for question, _, _ in said]
    good = [[{"role": "assistant", "content": answer.strip()}] for _, answer, _ in said]
    bad = [[{"role": "assistant", "content": answer.strip()}] for _, _, answer in said]
    rows: list[dict[str, Any]]
    if kind == "preference":
        rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in zip(user, good, bad, strict=True)]
    else:
        rows = [
            {"messages": [*p, *(c if n % 3 else r)]} for n, (p, c, r) in enumerate(zip(user, good, bad, strict=True))
        ]
        if kind == "unpaired":
            rows = [{**row, "label": bool(n % 3)} for n, row in enumerate(rows)]
    path = folder / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = DataSection.model_validate({"path": str(path)})
    return prepare_data(section, tokenizer, max_length=64, seed=0, kind=kind)  # pyright: ignore[reportArgumentType]


def _dicts(messages: Any) -> list[dict[str, Any]]:
    return [message.as_dict() for message in messages]


def _trl_row(conversation: Conversation) -> dict[str, Any]:
    prompt = _dicts(conversation.messages)
    if conversation.label is None:
        return {"prompt": prompt, "chosen": _dicts(conversation.chosen), "rejected": _dicts(conversation.rejected)}
    answer = conversation.chosen or conversation.rejected
    return {"prompt": prompt, "completion": _dicts(answer), "label": conversation.label}


def _rows(method: str, data: PreparedData) -> list[dict[str, Any]]:
    if method == "sft":
        return [{"input_ids": e.input_ids, "labels": e.labels} for e in data.train]
    rows = [_trl_row(conversation) for conversation in data.train_conversations]
    if method == "kto":  # TRL feeds KTO in the order of the rows, and we choose that
        labels, batch = [row["label"] for row in rows], ARGUMENTS["per_device_train_batch_size"]
        return [rows[at] for at in feeding_order(data.train.lengths(), labels, batch, ARGUMENTS["seed"])]
    return rows


@pytest.fixture(scope="module")
def found(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[float], list[float]]]:
    """variant -> losses of TRL's trainer, losses of ours."""
    folder = tmp_path_factory.mktemp("losses")
    (folder / "template.jinja").write_text(TEMPLATE)
    tokenizer = ChatTokenizer.load(tiny, str(folder / "template.jinja"))
    ours: dict[str, list[float]] = {}
    jobs: list[dict[str, Any]] = []
    for name, (classes, kind, options) in VARIANTS.items():
        method, place = name.partition(",")[0], folder / str(len(jobs))
        data = _data(kind, tokenizer, folder)
        ours[name] = _ours(method, data, options, place)
        module, _, prefix = classes.partition(":")
        kwargs = {"dataset_kwargs": {"skip_prepare_dataset": True}} if method == "sft" else {}
        jobs.append(
            {
                "trainer": f"{module}:{prefix}Trainer",
                "config": f"{module}:{prefix}Config",
                "arguments": {**ARGUMENTS, **options, **kwargs},
                "base": str(tiny),
                "chat_template": TEMPLATE,
                "adapter": str(place / "adapter"),
                "rows": _rows(method, data),
            }
        )
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("stock_losses.py")
    subprocess.run([sys.executable, str(script), folder / "jobs.json", folder / "out.json"], check=True)
    stock = json.loads((folder / "out.json").read_text())
    return {name: (theirs, ours[name]) for name, theirs in zip(VARIANTS, stock, strict=True)}


def _ours(method: str, data: PreparedData, options: dict[str, Any], folder: Path) -> list[float]:
    """The losses of fastft's trainer; the adapter as it was before is saved for TRL's."""
    from fastft.model import load_model
    from fastft.trainers import trainer_builder
    from fastft.trainers.method import Job

    section = ModelSection.model_validate(
        {"model_name": "fastft/tiny", "max_seq_length": 64, "load_in_16bit": True, "dtype": "float32"}
    )
    lora = LoraSection.model_validate({"r": 8, "use_gradient_checkpointing": False})
    model, tokenizer = load_model(section, lora)
    tokenizer.chat_template = TEMPLATE
    model.save_pretrained(str(folder / "adapter"))
    trainer = trainer_builder(method)(Job(model, tokenizer, data, {**ARGUMENTS, **options}, folder / "checkpoints"))
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_step_has_the_loss_that_trls_own_trainer_has(
    name: str, found: dict[str, tuple[list[float], list[float]]]
) -> None:
    theirs, ours = found[name]
    assert len(ours) == ARGUMENTS["max_steps"]
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert len({round(loss, 4) for loss in ours}) > 1  # it learns, so later steps depend on earlier ones
